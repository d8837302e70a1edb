"""What is kept for the backward pass: exactly what the formula says, and never a change of any gradient."""

from typing import Any

import pytest
import torch
from both_ways import batch_of, kept_bytes, relative_difference, sides

import tiny_models as tiny
from lorica.lean import LayerShape, Policy, saved_bytes

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("policy", [Policy(), *POLICIES.values()], ids=["all", *POLICIES])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_saved_bytes_are_the_formulas(make: Any, policy: Policy, dtype: torch.dtype) -> None:
    both, batch = sides(lambda: make().to(dtype)), batch_of()
    both.keep(policy)
    tokens, shape = batch.input_ids.numel(), shape_of(both.model.config)
    on_host = tokens * shape.hidden * dtype.itemsize if policy.offload else 0
    kept = kept_bytes(both.model, lambda: both.hidden_before_norm(batch))
    assert kept == 2 * (saved_bytes(shape, policy, tokens, dtype) + on_host)


def shape_of(config: Any) -> LayerShape:
    """Of a layer lean in both halves."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    normed = config.model_type.startswith("gemma")
    return LayerShape(
        config.hidden_size,
        config.num_attention_heads * head,
        config.num_key_value_heads * head,
        config.intermediate_size,
        config.num_attention_heads,
        normed_attention=normed,
        normed_mlp=normed,
    )


def test_a_llama_layer_keeps_what_the_design_says() -> None:
    """4h + 2(q + 2k) + 2q + 4f bytes a token in bf16, and the log-sum-exp in fp32."""
    h, q, k, f = 4096, 4096, 1024, 14336
    kept = saved_bytes(LayerShape(h, q, k, f, heads=32), Policy(), 1, torch.bfloat16)
    assert kept == 4 * h + 2 * (q + 2 * k) + 2 * q + 4 * f + 4 * 32
    assert kept == 92 * 1024 + 128
