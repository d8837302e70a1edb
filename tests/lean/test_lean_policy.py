"""What is kept for the backward pass: exactly what the formula says, and never a change of any gradient."""

from typing import Any

import pytest
import torch
from both_ways import Sides, batch_of, relative_difference, sides
from torch import Tensor

import tiny_models as tiny
from lorica.lean import LayerShape, LeanLayer, Policy, saved_bytes

POLICIES = {
    "attention": Policy("attention"),
    "input": Policy("input"),
    "offloaded": Policy("input", offload=True),
    "everything offloaded but attention": Policy("attention", offload=True),
    "chunked": Policy("input", mlp_tokens=7),
    "chunked, the rest kept": Policy("all", mlp_tokens=4),
}
MODELS: dict[str, Any] = {"llama": tiny.llama, "gemma2": tiny.gemma2, "qwen3": tiny.qwen3, "phi3": tiny.phi3}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_policies_give_one_gradient(make: Any, dropout: float) -> None:
    batch = batch_of()
    both = sides(make, batch, dropout=dropout)
    kept_loss, kept = both.lean(batch)
    for name, policy in POLICIES.items():
        both.keep(policy)
        loss, found = both.lean(batch)
        if policy.mlp_tokens is None:
            assert loss == kept_loss, name
            assert all(torch.equal(found[key], gradient) for key, gradient in kept.items()), name
        else:
            assert float(loss) == pytest.approx(float(kept_loss), rel=1e-6), name
            assert relative_difference(found, kept) < 1e-6, name


def test_policies_mix_layer_by_layer() -> None:
    both, batch = sides(lambda: tiny.llama(num_hidden_layers=4)), batch_of()
    _, kept = both.lean(batch)
    both.body.set_policies([Policy("input", offload=True), Policy(), Policy("attention"), Policy("all", mlp_tokens=5)])
    _, found = both.lean(batch)
    assert relative_difference(found, kept) < 1e-6


def kept_for_backward(both: Sides, batch: Any) -> int:
    """Bytes of the distinct storages that autograd keeps for the layers, parameters aside."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in both.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = both.hidden_before_norm(batch)
    assert x.requires_grad
    return sum(size for address, size in storages.items() if address not in own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("policy", [Policy(), *POLICIES.values()], ids=["all", *POLICIES])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_saved_bytes_are_the_formulas(make: Any, policy: Policy, dtype: torch.dtype) -> None:
    both, batch = sides(lambda: make().to(dtype)), batch_of()
    both.keep(policy)
    layers = [layer for layer in both.body.layers if isinstance(layer, LeanLayer)]
    tokens = batch.input_ids.numel()
    expected = sum(saved_bytes(layer.shape, policy, tokens, dtype) for layer in layers)
    on_host = sum(tokens * layer.shape.hidden * dtype.itemsize for layer in layers) if policy.offload else 0
    assert kept_for_backward(both, batch) == expected + on_host


def test_a_llama_layer_keeps_what_the_design_says() -> None:
    """4h + 2(q + 2k) + 2q + 4f bytes a token in bf16, and the log-sum-exp in fp32."""
    h, q, k, f = 4096, 4096, 1024, 14336
    kept = saved_bytes(LayerShape(h, q, k, f, heads=32), Policy(), 1, torch.bfloat16)
    assert kept == 4 * h + 2 * (q + 2 * k) + 2 * q + 4 * f + 4 * 32
    assert kept == 92 * 1024 + 128
