"""Every architecture that has to be lean is, and computes what transformers does; every other says why it is not."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from both_ways import batch_of, relative_difference, sides

import tiny_models as tiny
from lorica.lean import LeanLayer, NotLeanError, find_body
from lorica.lean.recognise import head_features
from lorica.lora import attach

LEAN = {
    "llama": tiny.llama,
    "tied llama": tiny.tied_llama,
    "llama with biases": lambda: tiny.llama(attention_bias=True, mlp_bias=True),
    "llama with scaled rotation": lambda: tiny.llama(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    ),
    "mistral": tiny.mistral,
    "qwen2": tiny.qwen2,
    "qwen3": tiny.qwen3,
    "smollm3": tiny.smollm3,
    "gemma2": lambda: tiny.gemma2(sliding_window=5),
    "gemma3": lambda: tiny.gemma3(sliding_window=5),
    "phi3": tiny.phi3,
    "phi3 turned in part": lambda: tiny.phi3(
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.34}
    ),
    "granite": tiny.granite,
    "olmo2": tiny.olmo2,
}


@pytest.mark.parametrize("name", LEAN)
def test_loss_and_gradients_are_the_models_own(name: str) -> None:
    both, batch = sides(LEAN[name]), batch_of()
    assert both.body.description == "2/2 layers lean"
    (loss, found), (expected_loss, expected) = both.lean(batch), both.plain(batch)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (tiny.gpt2, "the first layer's input is not the embedding of the tokens"),
        (tiny.cohere, "its input_layernorm, self_attn, mlp are not two halves between RMS norms"),
    ],
    ids=["gpt2", "cohere"],
)
def test_others_say_why(make: Any, reason: str) -> None:
    model = make()
    attach(model, r=2).eval()
    with pytest.raises(NotLeanError, match=reason):
        find_body(model)


@pytest.mark.parametrize(
    ("outputs", "read", "found"),
    [
        ([64, 32, 32], 64, (64, 32)),
        ([128], 64, (64, 32)),
        ([64, 32, 256], 512, None),  # values of another size (MiMo V2)
        ([96], 64, (64, 16)),
        ([95], 64, None),
        ([80, 32, 32], 80, None),  # two and a half queries a key
        ([64, 8, 8], 64, None),  # half a head
    ],
)
def test_sizes_of_heads(outputs: list[int], read: int, found: tuple[int, int] | None) -> None:
    def call(size: int) -> Any:
        return SimpleNamespace(input=torch.empty(1, size), output=torch.empty(1, size))

    parts: Any = SimpleNamespace(qkv=[call(size) for size in outputs], o=call(read))
    if found is not None:
        assert head_features(parts, 16) == found
        return
    with pytest.raises(NotLeanError, match=f"reads {read}, no heads of 16 features alike"):
        head_features(parts, 16)


def test_without_an_adapter_the_trained_weights_are_named() -> None:
    with pytest.raises(NotLeanError, match=r"layer 0, 1: its self_attn.q_proj is trained"):
        find_body(tiny.llama())


class Doubled(torch.nn.Module):
    """Half a decoder layer, done twice: no lean layer computes this, though every part looks right."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.inner = mlp

    def forward(self, x: Any) -> Any:
        return 2 * self.inner(x)


def test_a_layer_that_computes_something_else_stays_as_it_is() -> None:
    model = tiny.llama()
    model.model.layers[1].mlp = Doubled(model.model.layers[1].mlp)
    adapter = tiny.randomise(attach(model, r=3)).eval()
    body = find_body(model)
    reason = "layer 1: mlp stays the model's own: its output differs by"
    assert body.description.startswith(f"1/2 layers lean, 1 in half; {reason}")
    del adapter


def test_an_adapter_that_trains_a_norm_leaves_that_layer_plain() -> None:
    both = sides(target_modules=["q_proj", "down_proj"], modules_to_save=["layers.1.input_layernorm"])
    assert both.body.description == "1/2 layers lean; layer 1: its input_layernorm is trained whole"
    (loss, found), (expected_loss, expected) = both.lean(batch_of()), both.plain(batch_of())
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert relative_difference(found, expected) < 1e-5


def test_the_model_itself_is_left_as_it_is() -> None:
    model = tiny.llama()
    attach(model, r=3).eval()
    before = {name: (type(module), len(module._forward_hooks)) for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    body = find_body(model)
    assert {name: (type(module), len(module._forward_hooks)) for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    layers = [layer for layer in body.layers if isinstance(layer, LeanLayer)]
    assert layers[0].attention.qkv.modules[0] is model.model.layers[0].self_attn.q_proj
