"""Intruder dimensions by the update alone, against two whole decompositions, and of saved adapters."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models as tiny
from lorica.adapters.intruders import highest_cosines, highest_cosines_of, leading_of_update
from lorica.inspection import inspect
from lorica.lora import attach
from lorica.lora.merge import merged_weight
from lorica.lora.weights import dense_weight
from lorica.models import load


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(weight: Tensor, merged: Tensor, count: int) -> list[float]:
    """One cosine after another."""
    base, tuned = (torch.linalg.svd(matrix.double()).U for matrix in (weight, merged))
    rank = min(weight.shape)
    return [max(abs(float(base[:, i] @ tuned[:, j])) for i in range(rank)) for j in range(min(count, rank))]


@pytest.mark.parametrize("size", [0.0, 0.1, 3.0, 30.0])
@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64), (5, 12), (12, 5)])
@pytest.mark.parametrize("r", [1, 4, 13])
def test_the_cosines_are_those_of_the_decompositions(shape: tuple[int, int], size: float, r: int) -> None:
    weight = random(*shape) * (1.0 + torch.arange(shape[1])).rsqrt()
    down, up = random(r, shape[1], seed=1), size / r**0.5 * random(shape[0], r, seed=2) / 10
    found = highest_cosines(weight, down, up)
    expected = by_definition(weight, weight + up @ down, 10)
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(highest_cosines_of(weight, weight + up @ down).tolist(), expected)


def test_a_direction_that_is_put_in_is_found() -> None:
    weight = random(60, 50)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    spread = u.sum(1, keepdim=True) / 50**0.5  # as far from every one of the base's as can be
    found = highest_cosines(weight, vt[-1:], 10 * s[0] * spread)
    assert found[0] < 0.3 and (found[1:] > 0.5).all()
    same = highest_cosines(weight, vt[:1], 10 * s[0] * u[:, :1])
    torch.testing.assert_close(same, torch.ones(10, dtype=torch.float64))


def test_the_update_needs_no_whole_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: (sizes.append(len(x)), eigh(x))[1])
    weight = random(400, 500) * 0.98 ** torch.arange(500)
    highest_cosines(weight, random(2, 500, seed=1), random(400, 2, seed=2))
    assert sizes[0] == 400 and max(sizes[1:]) < 120


def test_leading_eigenvectors_with_equal_values() -> None:
    """A diagonal of two values, where an eigenvector is any of many; the values still are what they are."""
    diagonal = torch.tensor([1.0] * 30 + [2.0] * 20, dtype=torch.float64)
    sides, square = random(50, 4), random(4, 4, seed=3)
    values, vectors = leading_of_update(diagonal, sides, square + square.t(), 7)
    whole = torch.diag(diagonal) + sides @ (square + square.t()) @ sides.t()
    torch.testing.assert_close(values, torch.linalg.eigvalsh(whole)[-7:].flip(0))
    torch.testing.assert_close(whole @ vectors, vectors * values, rtol=1e-8, atol=1e-8)


MAKES = {
    "llama": tiny.llama,
    "gpt2": lambda: tiny.gpt2(tie_word_embeddings=False),
    "tied": tiny.tied_llama,
}


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("fields", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
def test_a_saved_adapter_beside_its_base(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    MAKES[kind]().save_pretrained(tmp_path / "base")
    tiny.word_tokenizer().save_pretrained(tmp_path / "base")
    base = load(tmp_path / "base", device="cpu", dtype="fp32")
    target = {"target_modules": ["wte", "c_attn"]} if kind == "gpt2" else {}
    adapter = tiny.randomise(attach(base, r=3, alpha=11, **fields, **target), 0.3)
    adapter.save(tmp_path / "saved")
    found = inspect(tmp_path / "saved", intruders=True)  # the base is where the adapter says it was
    assert json.loads(json.dumps(found)) == found and found["beside"] == str(tmp_path / "base")
    modules = {module["module"]: module for module in found["modules"]}
    assert modules.keys() == adapter.layers.keys()
    for name, layer in adapter.layers.items():
        weight, merged = dense_weight(layer.base).detach(), merged_weight(layer)
        expected = by_definition(weight, merged, 10)
        assert modules[name]["cosines"] == pytest.approx(expected, abs=2e-3)
        assert modules[name]["intruders"] == sum(cosine < 0.5 for cosine in modules[name]["cosines"])
        assert modules[name]["relative_norm"] == pytest.approx(
            float((merged - weight).norm() / weight.norm()), rel=1e-4
        )
    assert found["intruders"] == sum(module["intruders"] for module in modules.values()) > 0
    assert sum(layer["intruders"] for layer in found["layers"].values()) == found["intruders"]


def test_norms_by_layer(tmp_path: Path) -> None:
    adapter = tiny.randomise(attach(tiny.llama(), r=3, alpha=11, target_modules=["q_proj", "up_proj", "lm_head"]))
    adapter.save(tmp_path)
    found = inspect(tmp_path)["layers"]
    assert list(found) == ["0", "1", "rest"]
    for number in ("0", "1"):
        changes = [layer.delta().flatten() for name, layer in adapter.layers.items() if f".{number}." in name]
        assert found[number]["norm"] == pytest.approx(float(torch.cat(changes).norm()), rel=1e-5)
    assert found["rest"]["norm"] == pytest.approx(float(adapter.layers["lm_head"].delta().norm()), rel=1e-5)


def test_another_base_and_no_adapter_are_refused(tmp_path: Path) -> None:
    for name, model in (("base", tiny.llama()), ("other", tiny.llama(initializer_range=0.2))):
        model.save_pretrained(tmp_path / name)
        tiny.word_tokenizer().save_pretrained(tmp_path / name)
    attach(load(tmp_path / "base"), r=2).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="allow_other_base"):
        inspect(tmp_path / "saved", base=tmp_path / "other")
    found = inspect(tmp_path / "saved", base=tmp_path / "other", allow_other_base=True)
    assert {module["intruders"] for module in found["modules"]} == {0}
    with pytest.raises(ValueError, match="no base belongs beside it"):
        inspect(tmp_path / "base", intruders=True)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="--base"):
        inspect(tmp_path / "saved", intruders=True)
