"""PEFT is the oracle: same values, alpha != r, same logits, same gradients, same losses over 50 steps of AdamW."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tiny_models as tiny
from lorica.lora import Adapter, attach
from lorica.lora.checkpoint import adapter_tensors

ATTENTION = ["q_proj", "v_proj"]
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (tiny.llama, {"target_modules": ATTENTION}),
    "all linear": (tiny.llama, {"target_modules": "all-linear"}),
    "rslora": (tiny.llama, {"target_modules": ATTENTION, "use_rslora": True}),
    "patterns": (
        tiny.llama,
        {
            "target_modules": "all-linear",
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 7},
            "alpha_pattern": {".*v_proj": 9, "down_proj": 1},
        },
    ),
    "dora": (tiny.llama, {"target_modules": "all-linear", "use_dora": True}),
    "dora with biases": (tiny.qwen2, {"target_modules": "all-linear", "use_dora": True}),
    "dora on an embedding": (tiny.llama, {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "embeddings and head": (tiny.llama, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "scaled embedding": (tiny.gemma3, {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "gemma 2": (tiny.gemma2, {"target_modules": "all-linear"}),
    "modules to save": (tiny.llama, {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "norm"]}),
    "token rows": (tiny.llama, {"target_modules": ATTENTION, "trainable_token_indices": [3, 60, 17]}),
    "token rows, tied": (
        tiny.tied_llama,
        {"target_modules": ATTENTION, "trainable_token_indices": [3, 60, 17]},
    ),
    "token rows of both": (
        tiny.llama,
        {"target_modules": ATTENTION, "trainable_token_indices": {"embed_tokens": [3, 60], "lm_head": [60, 5, 2]}},
    ),
    "token rows, scaled and tied": (tiny.gemma3, {"target_modules": ATTENTION, "trainable_token_indices": [5, 2]}),
    "one layer": (tiny.llama, {"target_modules": ATTENTION, "layers_to_transform": 1, "layers_pattern": "layers"}),
    "regular expression": (tiny.llama, {"target_modules": r"model\.layers\.\d+\.mlp\.(up|down)_proj"}),
    "exclusion": (tiny.llama, {"target_modules": "all-linear", "exclude_modules": ["gate_proj", "k_proj"]}),
    "conv1d": (tiny.gpt2, {"target_modules": "all-linear"}),
    "conv1d dora": (tiny.gpt2, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "biases": (tiny.qwen2, {"target_modules": "all-linear"}),
    "mixture of experts": (tiny.mixtral, {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
}


STEPPED = CASES.keys() - {"all linear", "gemma 2", "scaled embedding", "conv1d dora", "mixture of experts"}


def twins(case: str) -> tuple[Adapter, Any]:
    """An adapter and PEFT's, with the same values."""
    make, fields = CASES[case]
    fields = {"r": 4, "lora_alpha": 10} | fields
    twin = tiny.peft_twin(make(), **fields, fan_in_fan_out=make is tiny.gpt2)
    adapter = tiny.randomise(attach(make(), **fields), 0.05)
    tiny.copy_to_peft(adapter, twin)
    return adapter, twin


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    predicted = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return F.cross_entropy(predicted.flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients(case: str) -> None:
    adapter, twin = twins(case)
    ids = tiny.tokens()
    torch.testing.assert_close(tiny.logits(adapter.model, ids), tiny.logits(twin, ids), rtol=1e-5, atol=1e-5)
    with adapter.disable():
        base = tiny.logits(adapter.model, ids)
    assert (tiny.logits(adapter.model, ids) - base).abs().max() > 1e-2
    if case != "mixture of experts":  # whose router computes in fp32 whatever it is given
        adapter.model.double(), twin.double()
    loss_of(adapter.model, ids).backward()
    loss_of(twin, ids).backward()
    expected = tiny.peft_gradients(twin)
    found = gradients(adapter)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        # Of a tensor's largest element: both sides are within a few 1e-6 of it from a twin in float64, and an element
        # that is the small difference of large ones is as far off as they are.
        difference, largest = (found[key] - gradient).abs().max(), gradient.abs().max()
        assert difference <= 1e-5 * largest, (
            f"{key}: off by {difference:.1e} where the largest element is {largest:.1e}"
        )


def gradients(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Each parameter's gradient under PEFT's name: what the checkpoint writes once values are replaced by gradients."""
    values = [parameter.detach().clone() for parameter in adapter.parameters()]
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(parameter.grad)
        found = {key: tensor.clone() for key, tensor in adapter_tensors(adapter).items()}
        for parameter, value in zip(adapter.parameters(), values, strict=True):
            parameter.copy_(value)
    return found


@pytest.mark.parametrize("case", sorted(STEPPED))
def test_losses_of_50_steps(case: str) -> None:
    adapter, twin = twins(case)
    ours = torch.optim.AdamW(adapter.parameters(), lr=2e-3, weight_decay=0.01)
    theirs = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.01)
    both = ((adapter.model, ours), (twin, theirs))
    losses = [[step(model, optimiser, number) for number in range(50)] for model, optimiser in both]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0, atol=1e-4)
    assert losses[0][-2] < losses[0][0] - 0.05  # two batches, in turn


def step(model: Any, optimiser: torch.optim.Optimizer, number: int) -> float:
    optimiser.zero_grad()
    loss = loss_of(model, tiny.tokens(2, 7, seed=number % 2))
    loss.backward()
    optimiser.step()
    return float(loss.detach())
