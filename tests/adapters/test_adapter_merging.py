"""Merged adapters against PEFT's own arithmetic, dense sums, and the tensors that every reader sees."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny_models as tiny
from lorica.adapters import merge_adapters
from lorica.adapters.merge import dare, ties
from lorica.lora.checkpoint import load_adapter

Make = Callable[..., Path]


def deltas(folder: Path) -> dict[str, Tensor]:
    """What each module of a saved adapter adds, by Lorica's own loader."""
    adapter = load_adapter(tiny.llama(), folder)
    return {name: layer.delta().double() for name, layer in adapter.layers.items()}


def peft_logits(folder: Path) -> Tensor:
    from peft import PeftModel

    return tiny.logits(PeftModel.from_pretrained(tiny.llama(), folder).eval(), tiny.tokens())


def test_the_linear_sum_is_exact_with_ranks_scales_and_modules_that_differ(saved: Make, tmp_path: Path) -> None:
    one = saved("one", 1, rank_pattern={"up_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 3})
    other = saved("other", 2, r=3, alpha=7, use_rslora=True, target_modules=["q_proj", "down_proj"])
    found = merge_adapters([one, other], tmp_path / "sum", [0.7, -0.4])
    first, second = deltas(one), deltas(other)
    merged = deltas(tmp_path / "sum")
    assert merged.keys() == first.keys() | second.keys()
    for name, delta in merged.items():
        expected = 0.7 * first.get(name, 0) - 0.4 * second.get(name, 0)
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-6)
    assert found["kept"] == 1.0
    assert json.loads((tmp_path / "sum" / "measured.json").read_text()) == found
    model = load_adapter(tiny.llama(), tmp_path / "sum").eval().model
    torch.testing.assert_close(peft_logits(tmp_path / "sum"), tiny.logits(model, tiny.tokens()), rtol=1e-5, atol=1e-5)


def test_the_linear_sum_is_pefts_concatenation(saved: Make, tmp_path: Path) -> None:
    from peft import PeftModel

    one, other = saved("one", 1), saved("other", 2, r=3, alpha=7)
    merge_adapters([one, other], tmp_path / "sum", [0.5, 0.25])
    twin = PeftModel.from_pretrained(tiny.llama(), one, adapter_name="one")
    twin.load_adapter(other, adapter_name="other")
    twin.add_weighted_adapter(["one", "other"], [0.5, 0.25], "sum", combination_type="cat")
    twin.set_adapter("sum")
    expected = tiny.logits(twin.eval(), tiny.tokens())
    torch.testing.assert_close(peft_logits(tmp_path / "sum"), expected, rtol=1e-5, atol=1e-5)


def test_svd_is_the_best_pair_of_its_rank(saved: Make, tmp_path: Path) -> None:
    one, other = saved("one", 1), saved("other", 2, alpha=5)
    found = merge_adapters([one, other], tmp_path / "svd", method="svd", rank=3)
    first, second, merged = deltas(one), deltas(other), deltas(tmp_path / "svd")
    for module in found["modules"]:
        whole = (first[module["module"]] + second[module["module"]]) / 2
        u, s, vt = torch.linalg.svd(whole)
        expected = u[:, :3] * s[:3] @ vt[:3]
        torch.testing.assert_close(merged[module["module"]], expected, rtol=1e-5, atol=1e-6)
        assert module["kept"] == pytest.approx(float(s[:3].square().sum() / s.square().sum()), rel=1e-6)
        cosine = torch.nn.functional.cosine_similarity(
            first[module["module"]].flatten(), second[module["module"]].flatten(), dim=0
        )
        assert module["similarity"] == pytest.approx(float(cosine), abs=1e-6)
    shares = [(m["kept"], float((first[m["module"]] + second[m["module"]]).square().sum())) for m in found["modules"]]
    assert found["kept"] == pytest.approx(sum(k * n for k, n in shares) / sum(n for _, n in shares), rel=1e-6)


@pytest.mark.parametrize("density", [0.3, 0.5, 1.0])
def test_ties_is_pefts_on_whole_changes(density: float) -> None:
    from peft.utils.merge_utils import ties as peft_ties

    changes = torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    expected = peft_ties(list(changes), weights, density, "total")
    torch.testing.assert_close(ties(changes, weights[:, None, None], density), expected)


def test_dare_keeps_its_share_and_the_mean() -> None:
    changes = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.stack([dare(changes, 0.25, torch.Generator().manual_seed(seed)) for seed in range(4000)])
    torch.testing.assert_close(drawn.mean(0), changes.sum(0), rtol=0, atol=0.3)
    alone = torch.stack([dare(changes[:1], 0.25, torch.Generator().manual_seed(seed)) for seed in range(400)])
    assert float((alone != 0).double().mean()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(alone[alone != 0], (changes[0] / 0.25).expand_as(alone)[alone != 0])


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_methods_on_whole_changes_come_back_to_a_rank(method: str, saved: Make, tmp_path: Path) -> None:
    folders = [saved("one", 1), saved("other", 2)]
    full = merge_adapters(folders, tmp_path / "full", method=method, rank=1000, seed=3)
    low = merge_adapters(folders, tmp_path / "low", method=method, rank=2, seed=3)
    again = merge_adapters(folders, tmp_path / "again", method=method, rank=2, seed=3)
    assert full["kept"] == pytest.approx(1.0) and 0.1 < low["kept"] < 0.95
    assert (tmp_path / "low/adapter_model.safetensors").stat().st_size == (
        tmp_path / "again/adapter_model.safetensors"
    ).stat().st_size
    whole, cut = deltas(tmp_path / "full"), deltas(tmp_path / "low")
    for name, delta in whole.items():
        u, s, vt = torch.linalg.svd(delta)
        torch.testing.assert_close(cut[name], u[:, :2] * s[:2] @ vt[:2], rtol=1e-4, atol=1e-5)
    assert again["kept"] == low["kept"]


def test_embeddings_are_merged_too(saved: Make, tmp_path: Path) -> None:
    folders = [saved(name, seed, target_modules=["embed_tokens", "q_proj"]) for seed, name in enumerate("ab")]
    merge_adapters(folders, tmp_path / "sum", [1, 2])
    one, other, merged = deltas(folders[0]), deltas(folders[1]), deltas(tmp_path / "sum")
    for name, delta in merged.items():
        torch.testing.assert_close(delta, one[name] + 2 * other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weights": [1.0]}, "one finite number for each"),
        ({"weights": [1.0, float("nan")]}, "one finite number for each"),
        ({"method": "mean"}, "expected linear, svd, ties, dare"),
        ({"rank": 2}, "use svd"),
        ({"rank": 0, "method": "svd"}, "at least 1"),
        ({"density": 0.0, "method": "ties"}, "above 0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], told: str, saved: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        merge_adapters([saved("one", 1), saved("other", 2)], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_adapters_that_do_not_belong_together(saved: Make, tmp_path: Path) -> None:
    one, other = saved("one", 1), saved("other", 2)
    path = other / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors, path, {"lorica": json.dumps({"base": "another"})})
    with pytest.raises(ValueError, match=r"different bases: .*one .*hash of the.*other .*another"):
        merge_adapters([one, other], tmp_path / "out")
    merge_adapters([one, other], tmp_path / "allowed", allow_other_base=True)
    narrow = {key: value[:, :-1] if "lora_A" in key else value for key, value in tensors.items()}
    save_file({key: value.contiguous() for key, value in narrow.items()}, path)
    with pytest.raises(ValueError, match=r"up_proj is \(40, 24\) in .*one and \(40, 23\) in .*other"):
        merge_adapters([one, other], tmp_path / "out")
    with pytest.raises(ValueError, match="two adapters or more"):
        merge_adapters([one], tmp_path / "out")
    with pytest.raises(ValueError, match="DoRA"):
        merge_adapters([one, saved("dora", 3, use_dora=True)], tmp_path / "out")
    with pytest.raises(ValueError, match=r"lm_head.*replaced, not added"):
        merge_adapters([one, saved("copy", 3, modules_to_save=["lm_head"])], tmp_path / "out")
    assert not (tmp_path / "out").exists()
