"""Merging is the adapter switched on, rounded once; unmerging gives the base back bit for bit."""

import copy
from typing import Any

import pytest
import torch

import tiny_models as tiny
from lorica.lora import Adapter, attach
from lorica.lora.merge import merged_weight
from lorica.models.fingerprint import checksum

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "all linear": (tiny.qwen2, {"target_modules": "all-linear"}),
    "rslora and patterns": (tiny.llama, {"use_rslora": True, "rank_pattern": {"q_proj": 5}}),
    "dora": (tiny.qwen2, {"target_modules": "all-linear", "use_dora": True}),
    "dora on embedding and head": (tiny.llama, {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "tied embedding and head": (tiny.gemma3, {"target_modules": ["embed_tokens", "lm_head"]}),
    "conv1d, pissa": (tiny.gpt2, {"target_modules": "all-linear", "init_lora_weights": "pissa"}),
    "copies": (tiny.llama, {"target_modules": ["q_proj"], "modules_to_save": ["mlp", "norm", "lm_head"]}),
    "token rows": (tiny.llama, {"target_modules": ["q_proj"], "trainable_token_indices": [4, 2, 60]}),
    "token rows, tied and scaled": (tiny.gemma3, {"target_modules": ["q_proj"], "trainable_token_indices": [4, 2]}),
}


@pytest.fixture(params=CASES)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    make, fields = CASES[request.param]
    return tiny.randomise(attach(make(), r=3, alpha=8, **fields)).eval()


def bits(adapter: Adapter) -> dict[str, tuple[int, int]]:
    """Checksum and identity of every base parameter: tied ones stay one object."""
    named = adapter.model.named_parameters(remove_duplicate=False)
    return {name: (checksum([p]), id(p)) for name, p in named if not p.requires_grad}


def test_merged_is_the_same_as_switched_on(adapter: Adapter) -> None:
    ids, before = tiny.tokens(), bits(adapter)
    on = tiny.logits(adapter.model, ids)
    report = adapter.merge()
    merged = tiny.logits(adapter.model, ids)
    torch.testing.assert_close(merged, on, rtol=1e-5, atol=2e-5)
    with pytest.raises(ValueError, match="merged into the base"), adapter.disable():
        pytest.fail("the base is not there")
    assert [module.name for module in report.modules] == list(adapter.layers)
    assert report.survival == pytest.approx(1, abs=1e-4) and report.relative_delta > 0.01
    adapter.unmerge()
    assert bits(adapter) == before
    assert torch.equal(tiny.logits(adapter.model, ids), on)


def test_merging_twice_and_unmerging_what_is_not_merged_are_errors(adapter: Adapter) -> None:
    with pytest.raises(ValueError, match="not merged"):
        adapter.unmerge()
    adapter.merge()
    with pytest.raises(ValueError, match="merged already"):
        adapter.merge()
    adapter.unmerge()
    adapter.merge()


def test_a_merge_that_fails_midway_leaves_the_base(adapter: Adapter) -> None:
    before = bits(adapter)
    with torch.no_grad():
        adapter.parameters()[-1].view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        adapter.merge()
    assert bits(adapter) == before
    with pytest.raises(ValueError, match="not merged"):
        adapter.unmerge()


def test_the_merge_is_the_formula_in_float64() -> None:
    model = tiny.llama()
    adapter = tiny.randomise(attach(copy.deepcopy(model), r=3, alpha=8, use_dora=True, target_modules=["up_proj"]))
    for name, layer in adapter.layers.items():
        a, b = layer.lora_A[0].double(), layer.lora_B[0].double()
        added = model.get_submodule(name).weight.double() + 8 / 3 * b @ a
        expected = layer.magnitude[0].double()[:, None] * added / added.norm(dim=1, keepdim=True)
        torch.testing.assert_close(merged_weight(layer).double(), expected, rtol=1e-5, atol=1e-6)


def test_in_bf16_the_sum_is_rounded_once() -> None:
    model = tiny.llama().to(torch.bfloat16)
    adapter = tiny.randomise(attach(copy.deepcopy(model), r=3, alpha=8, target_modules=["up_proj"]))
    adapter.merge()
    for name, layer in adapter.layers.items():
        a, b = layer.lora_A[0].double(), layer.lora_B[0].double()
        expected = (model.get_submodule(name).weight.double() + 8 / 3 * b @ a).float().to(torch.bfloat16)
        difference = (layer.base.weight != expected).float().mean()
        assert difference < 0.01  # float64 and fp32 sums may fall on two sides of a rounding boundary


@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.bfloat16, -0.2, 0.2), (torch.float32, 0.98, 1.02)])
def test_survival_tells_whether_rounding_erased_the_adapter(dtype: torch.dtype, low: float, high: float) -> None:
    adapter = attach(tiny.llama().to(dtype), r=3, alpha=8, target_modules=["up_proj"])
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_B.normal_(std=1e-5, generator=torch.Generator().manual_seed(0))
    report = adapter.merge()
    assert all(low < module.survival < high for module in report.modules)
    assert 0 < report.relative_delta < 1e-3


def test_the_relative_delta_is_that_of_the_dense_matrices() -> None:
    adapter = tiny.randomise(attach(tiny.llama(), r=3, alpha=8, target_modules=["up_proj"]))
    expected = {}
    for name, layer in adapter.layers.items():
        expected[name] = float((8 / 3 * layer.lora_B[0] @ layer.lora_A[0]).norm() / layer.base.weight.norm())
    report = adapter.merge()
    assert {module.name: module.relative_delta for module in report.modules} == pytest.approx(expected, rel=1e-4)
    assert report.relative_delta == pytest.approx(max(expected.values()), rel=1e-4)


def test_one_lane_is_merged() -> None:
    adapter = tiny.randomise(attach(tiny.llama(), r=3, alpha=8, lanes=2)).eval()
    ids = tiny.tokens(rows=2)
    expected = tiny.logits(adapter.model, ids)
    for lane in (1, 0):
        adapter.merge(lane)
        found = tiny.logits(adapter.model, ids)
        torch.testing.assert_close(found[lane], expected[lane], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found[1 - lane], expected[1 - lane], atol=1e-2)
        adapter.unmerge()
