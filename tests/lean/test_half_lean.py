"""Layers one half of which is the model's own, experts or a mixer of another kind: the lean half gives the gradients
that autograd gives, and keeps what the formula says."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from both_ways import Sides, adapter_gradients, batch_of, documents_of, kept_bytes, relative_difference, sides
from torch import Tensor, nn

import tiny_models as tiny
from lorica.lean import HalfLeanLayer, LayerShape, LeanLayer, Policy, find_body, saved_bytes
from lorica.lean.chunks import in_chunks
from lorica.lean.half import lean_half
from lorica.lean.probe import Probe
from lorica.lora import attach

EXPERTS = {"mixtral": tiny.mixtral, "qwen2_moe": tiny.qwen2_moe, "qwen3_moe": tiny.qwen3_moe}
MIXERS = {"qwen3.5": tiny.qwen3_5, "gated attention": tiny.gated_attention, "lfm2": tiny.lfm2}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "dropout": {"dropout": 0.3},
    "dora": {"use_dora": True},
    "last layer": {"layers_to_transform": [1]},
    "keys only": {"target_modules": ["k_proj"]},
    "rslora": {"use_rslora": True, "r": 4},
}
POLICIES = [
    Policy("attention"),
    Policy("all", offload=True),
    Policy("attention", mlp_tokens=6),
    Policy("input"),
    Policy("input", offload=True),
    Policy("input", mlp_tokens=7),
]


def same_as_autograd(both: Sides, batch: Any) -> None:
    (loss, found), (expected_loss, expected) = both.lean(batch), both.plain(batch)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert difference(found, expected) < 1e-6


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients together. One alone may be what is left of numbers a thousand times its size (of the decay of
    linear attention), and as much of their rounding."""
    assert relative_difference(found, expected) < 1e-3
    apart = torch.cat([(found[key].double() - expected[key].double()).flatten() for key in expected])
    return float(apart.norm() / torch.cat([gradient.flatten() for gradient in expected.values()]).double().norm())


@pytest.mark.parametrize("fields", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("make", (EXPERTS | MIXERS).values(), ids=EXPERTS | MIXERS)
def test_gradients_are_autograds(make: Any, fields: dict[str, Any]) -> None:
    batch = batch_of()
    both = sides(make, batch, **fields)
    assert any(isinstance(layer, HalfLeanLayer) for layer in both.body.layers)
    same_as_autograd(both, batch)


def test_which_half_is_lean_and_why() -> None:
    def description(make: Any) -> str:
        return sides(make).body.description

    assert description(tiny.mixtral) == (
        "2/2 layers lean in half; layer 0, 1: mlp stays the model's own: its linear layers share inputs as none; "
        "expected 2, 1 (or fused)"
    )
    assert description(tiny.lfm2).startswith("1/2 layers lean, 1 in half; layer 0: conv stays the model's own: its ")
    found = description(tiny.qwen3_5)
    assert found.startswith(
        "2/2 layers lean in half; layer 0: linear_attn stays the model's own: its linear layers share"
    )
    assert "; layer 1: self_attn stays the model's own: attention projects to 64, 16, 16 and reads 32" in found
    assert "mlp stays the model's own: its activation mlp.act_fn is none of silu, gelu" in description(
        lambda: tiny.llama(hidden_act="tanh")
    )


class WithShared(nn.Module):
    """A decoder layer with a second MLP beside the first (Granite's shared experts)."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.shared = layer.self_attn, layer.mlp, copy.deepcopy(layer.mlp)
        self.before_attention, self.before_mlp = layer.input_layernorm, layer.post_attention_layernorm

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        x = x + self.self_attn(hidden_states=self.before_attention(x), **given)[0]
        read = self.before_mlp(x)
        return x + (self.mlp(read) + self.shared(read))


def test_a_half_may_be_the_sum_of_several_modules() -> None:
    def make() -> Any:
        model = tiny.llama()
        model.model.layers[1] = WithShared(model.model.layers[1])
        return model

    both = sides(make)
    reason = "layer 1: mlp and shared stay the model's own: they are added up"
    assert both.body.description == f"1/2 layers lean, 1 in half; {reason}"
    same_as_autograd(both, batch_of())


def test_experts_in_some_layers_only() -> None:
    both = sides(lambda: tiny.qwen3_moe(num_hidden_layers=3, mlp_only_layers=[0]))
    assert [type(layer) for layer in both.body.layers] == [LeanLayer, HalfLeanLayer, HalfLeanLayer]
    assert both.body.description.startswith("1/3 layers lean, 2 in half; layer 1, 2: mlp stays the model's own")
    same_as_autograd(both, batch_of())


@pytest.mark.parametrize("target", ["in_proj_qkv", "down_proj", "q_proj"])
def test_adapters_in_one_half_only(target: str) -> None:
    same_as_autograd(sides(tiny.qwen3_5, target_modules=[target]), batch_of())


@pytest.mark.parametrize("target", ["shared_expert.up_proj", "v_proj"])
def test_adapters_on_experts_only_or_not_at_all(target: str) -> None:
    same_as_autograd(sides(tiny.qwen2_moe, target_modules=[target]), batch_of())


def test_a_half_trained_whole_is_the_models_own() -> None:
    both = sides(target_modules=["q_proj", "down_proj"], modules_to_save=["1.mlp"])
    assert (
        both.body.description
        == "1/2 layers lean, 1 in half; layer 1: mlp stays the model's own: its mlp is trained whole"
    )
    same_as_autograd(both, batch_of())
    both.keep(Policy("input"))
    same_as_autograd(both, batch_of())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("make", [tiny.qwen2_moe, tiny.qwen3_5, tiny.lfm2], ids=["experts", "mixers", "convolution"])
def test_policies_give_one_gradient(make: Any, dropout: float) -> None:
    batch = batch_of()
    both = sides(make, batch, dropout=dropout)
    loss, kept = both.lean(batch)
    for policy in POLICIES:
        both.keep(policy)
        again, found = both.lean(batch)
        assert float(again) == pytest.approx(float(loss), rel=1e-6), policy
        assert difference(found, kept) < 1e-5, policy


@pytest.mark.parametrize("make", [tiny.mixtral, tiny.gated_attention], ids=["experts", "gated attention"])
def test_packed_documents_are_as_alone(make: Any) -> None:
    both, lengths = sides(make), (7, 1, 12)
    batch = batch_of(lengths)
    together = both.body.hidden(batch.input_ids, batch.position_ids, documents_of(batch))
    for start, end in pairwise([0, 7, 8, 20]):
        positions = torch.arange(end - start).unsqueeze(0)
        one = documents_of(batch_of((end - start,)))
        alone = both.body.hidden(batch.input_ids[:, start:end], positions, one)
        torch.testing.assert_close(together[start:end], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [tiny.mixtral, tiny.qwen3_5, tiny.lfm2], ids=["experts", "mixers", "convolution"])
def test_lanes(make: Any) -> None:
    model, lanes, length = make(), 2, 19
    adapter = tiny.randomise(attach(model, lanes=lanes, r=3, alpha=5)).eval()
    body = find_body(model, lanes)
    ids, positions = tiny.tokens(lanes, length), torch.cat([torch.arange(13), torch.arange(6)]).expand(lanes, -1)
    found = body.hidden(ids, positions, documents_of(batch_of((13, 6)), lanes)).view(lanes, length, -1)
    expected = model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert relative_difference(*adapter_gradients(adapter, found, expected)) < 1e-5


HALVES = [Policy(), *(policy for policy in POLICIES if policy.keep != "input")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("policy", HALVES)
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (tiny.mixtral, LayerShape(24, query=24, key=12, heads=4)),
        (lambda: tiny.qwen3_moe(moe_intermediate_size=24), LayerShape(24, query=24, key=12, heads=4)),
        (tiny.gated_attention, LayerShape(24, intermediate=40)),
    ],
    ids=["mixtral", "qwen3 moe", "gated attention"],
)
def test_the_lean_half_keeps_what_the_formula_says(
    make: Any, shape: LayerShape, policy: Policy, dtype: torch.dtype
) -> None:
    both = sides(lambda: make().to(dtype))
    pack = Probe(both.model).pack
    layer, tokens = both.body.layers[0], sum(pack.documents.lengths())
    assert isinstance(layer, HalfLeanLayer)
    half = in_chunks(layer.lean, policy.mlp_tokens)
    x = torch.randn(tokens, 24, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    on_host = tokens * 24 * dtype.itemsize if policy.offload else 0
    kept = kept_bytes(both.model, lambda: lean_half(half, x, pack, policy))
    assert kept == saved_bytes(shape, policy, tokens, dtype) + on_host


@pytest.mark.parametrize("make", [tiny.mixtral, tiny.gated_attention], ids=["experts", "gated attention"])
def test_recomputed_layers_keep_their_input_alone(make: Any) -> None:
    both, batch = sides(make), batch_of()
    plain = kept_bytes(both.model, lambda: both.model.model(batch.input_ids, position_ids=batch.position_ids)[0])
    kept = kept_bytes(both.model, lambda: both.hidden_before_norm(batch))
    both.keep(Policy("input"))
    assert kept_bytes(both.model, lambda: both.hidden_before_norm(batch)) == 2 * 4 * 24 * batch.input_ids.numel()
    assert kept < plain
