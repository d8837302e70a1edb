"""Smaller adapters against the singular values of what they add."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny_models as tiny
from lorica.adapters import resize_adapter
from lorica.lora.checkpoint import load_adapter

Make = Callable[..., Path]


@pytest.mark.parametrize("rank", [1, 3, 4, 9])
def test_a_rank_keeps_the_largest_singular_values(rank: int, saved: Make, tmp_path: Path) -> None:
    source = saved("one", 1)
    found = resize_adapter(source, tmp_path / "small", rank=rank)
    before, after = load_adapter(tiny.llama(), source), load_adapter(tiny.llama(), tmp_path / "small")
    for module in found["modules"]:
        u, s, vt = torch.linalg.svd(before.layers[module["module"]].delta().double())
        layer = after.layers[module["module"]]
        assert layer.r == module["rank"] == min(rank, 4) and module["rank_before"] == 4
        expected = u[:, :rank] * s[:rank] @ vt[:rank] if rank < 4 else u[:, :4] * s[:4] @ vt[:4]
        torch.testing.assert_close(layer.delta().double(), expected, rtol=1e-4, atol=1e-5)
        assert module["kept"] == pytest.approx(float(s[:rank].square().sum() / s.square().sum()), rel=1e-6)
    assert json.loads((tmp_path / "small/measured.json").read_text()) == found


def test_each_module_gets_the_rank_it_needs(saved: Make, tmp_path: Path) -> None:
    source = saved("one", 1)
    found = resize_adapter(source, tmp_path / "small", keep=0.9)
    before = load_adapter(tiny.llama(), source)
    ranks = []
    for module in found["modules"]:
        s = torch.linalg.svdvals(before.layers[module["module"]].delta().double()).square()
        shares = s.cumsum(0) / s.sum()
        ranks.append(module["rank"])
        assert shares[module["rank"] - 1] >= 0.9 and (module["rank"] == 1 or shares[module["rank"] - 2] < 0.9)
    assert 0.9 <= found["kept"] < 1 and len(set(ranks)) > 1
    assert load_adapter(tiny.llama(), tmp_path / "small").layers[found["modules"][0]["module"]].r == ranks[0]
    assert {m["rank"] for m in resize_adapter(source, tmp_path / "whole", keep=1.0)["modules"]} == {4}


def test_trained_modules_and_an_untrained_pair_pass_through(saved: Make, tmp_path: Path) -> None:
    source = saved("one", 1, modules_to_save=["lm_head"])
    resize_adapter(source, tmp_path / "small", rank=2)
    key = "base_model.model.lm_head.weight"
    assert torch.equal(
        load_file(tmp_path / "small/adapter_model.safetensors")[key],
        load_file(source / "adapter_model.safetensors")[key],
    )
    from lorica.lora import attach

    attach(tiny.llama(), r=4, target_modules=["q_proj"]).save(tmp_path / "zero")
    found = resize_adapter(tmp_path / "zero", tmp_path / "still-zero", rank=2)
    assert (
        found["kept"] == 1.0
        and not load_adapter(tiny.llama(), tmp_path / "still-zero").layers[found["modules"][0]["module"]].delta().any()
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [({}, "either"), ({"rank": 2, "keep": 0.5}, "either"), ({"rank": 0}, "at least 1"), ({"keep": 1.5}, "at most 1")],
)
def test_options_that_do_not_fit(options: dict[str, float], told: str, saved: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        resize_adapter(saved("one", 1), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
