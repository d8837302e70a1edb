"""Where the decoder is, on models of several shapes without weights."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lorica.models.decoder import decoder_layers, decoder_of

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
SEEING = {
    "text_config": SMALL,
    "vision_config": SMALL | {"image_size": 28, "patch_size": 14},  # as many layers as the text's
    "mm_tokens_per_image": 4,
}


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        ("llama", SMALL, "model"),
        ("gpt2", {"n_embd": 32, "n_head": 2, "n_layer": 3, "vocab_size": 50}, "transformer"),
        ("opt", SMALL, "model.decoder"),
        ("bert", SMALL | {"is_decoder": True}, "bert"),
        ("llama4_text", SMALL | {"head_dim": 16, "num_local_experts": 2}, "model"),
        ("granite_swa", SMALL, "model"),  # with a second list, of its rotary embeddings
        ("gemma3", SEEING, "model.language_model"),
    ],
)
def test_decoder_and_layers(kind: str, settings: dict[str, object], name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    decoder = decoder_of(model)
    assert decoder is not None and decoder is model.get_submodule(name)
    layers = decoder_layers(decoder)
    assert layers is not None and len(layers) == 3
    assert all("layer" in type(layer).__name__.lower() or "block" in type(layer).__name__.lower() for layer in layers)


def test_a_model_that_is_its_own_decoder_has_none() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.layers = nn.Embedding(9, 4), nn.ModuleList([nn.Linear(4, 4)])

        def get_input_embeddings(self) -> nn.Module:
            return self.words

    assert decoder_of(Whole()) is None
