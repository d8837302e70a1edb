"""Architectures that are not a plain decoder: what is adapted is right, and what cannot be is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

import tiny_models as tiny
from lorica.lora import attach, load_adapter


def vision_language() -> Any:
    """A text model inside a wrapper, beside a vision tower that text alone never runs."""
    text = tiny.gemma3().config.to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    tokens = {"boi_token_index": 57, "eoi_token_index": 58, "image_token_index": 59}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    return tiny.made(Gemma3ForConditionalGeneration, config)


def test_a_nested_text_model(tmp_path: Path) -> None:
    adapter = tiny.randomise(attach(vision_language(), r=3, alpha=7)).eval()
    [note] = adapter.notes
    assert "vision_tower" in note
    ids = tiny.tokens() % 57
    adapter.model(input_ids=ids).logits.sum().backward()
    idle = adapter.without_gradient()
    assert idle and all("vision" in name for name in idle)
    assert [name for name in adapter.layers if "vision" not in name] == [
        name for name in adapter.layers if "language_model" in name
    ]
    adapter.save(tmp_path)
    theirs = PeftModel.from_pretrained(vision_language(), tmp_path).eval()
    torch.testing.assert_close(tiny.logits(adapter.model, ids), tiny.logits(theirs, ids), rtol=1e-5, atol=1e-5)


def test_a_nested_tied_pair_is_found() -> None:
    with pytest.raises(ValueError, match=r"model.language_model.embed_tokens.*lm_head.*tied"):
        attach(vision_language(), r=3, target_modules=["q_proj", "embed_tokens"])
    adapter = attach(vision_language(), r=3, target_modules=["q_proj"], trainable_token_indices=[4])
    assert sorted(adapter.rows) == ["lm_head", "model.language_model.embed_tokens"]
    assert len(adapter.parameters()) == 1 + 2 * len(adapter.layers)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(x)


class SharedBlocks(nn.Module):
    """One block used at two depths (as in ALBERT), and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        block = Block()
        self.layers = nn.ModuleList([block, block])
        self.up, self.down = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.down(self.up(x))


def test_a_shared_block_is_adapted_wherever_it_is_used(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SharedBlocks()
    x = torch.randn(4, 6)
    adapter = tiny.randomise(attach(model, r=2, alpha=3, target_modules=["mix"]))
    [layer] = adapter.layers.values()
    weight = layer.base.weight + layer.delta()
    expected = x
    for _ in range(2):
        expected = expected + F.linear(expected, weight, layer.base.bias)
    expected = model.down(model.up(expected))
    torch.testing.assert_close(model(x), expected)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)
    adapter.unmerge()
    adapter.save(tmp_path)
    load_adapter(adapter.detach(), tmp_path)
    torch.testing.assert_close(model(x), expected)


def test_layers_that_share_a_weight_each_have_their_own_pair() -> None:
    torch.manual_seed(0)
    model = SharedBlocks()
    x = torch.randn(4, 6)
    adapter = tiny.randomise(attach(model, r=2, alpha=3, target_modules=["up", "down"]))
    expected = model(x)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)
    adapter.unmerge()
    assert model.up.base.weight is model.down.base.weight
    torch.testing.assert_close(model(x), expected)


class PackedLinear(nn.Linear):
    """As quantisers make them: two values a byte, in a module that is still a linear layer."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.weight = nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)


class Positions(nn.Embedding):
    """As OPT's: an embedding that shifts what it looks up."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input + 2)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.packed, self.positions, self.plain = PackedLinear(), Positions(9, 4), nn.Linear(4, 4)


def test_what_only_looks_like_a_linear_or_an_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"packed is a PackedLinear.*uint8.* of another library"):
        attach(Odd(), r=2)
    with pytest.raises(ValueError, match=r"positions is a Positions.*more than a look-up"):
        attach(Odd(), r=2, target_modules=["plain", "positions"])
    assert list(attach(Odd(), r=2, exclude_modules=["packed"]).layers) == ["plain"]


def test_a_tied_head_with_a_bias_keeps_it_for_trained_rows() -> None:
    model = tiny.tied_llama()
    model.lm_head.bias = nn.Parameter(torch.randn(tiny.VOCABULARY, generator=torch.Generator().manual_seed(0)))
    expected = tiny.logits(model, tiny.tokens())
    attach(model, r=2, target_modules=["q_proj"], trainable_token_indices=[7, 3])
    torch.testing.assert_close(tiny.logits(model, tiny.tokens()), expected)
