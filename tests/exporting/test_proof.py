"""The proof tells a fine-tune that is there from one that rounding erased, against numbers computed here."""

from pathlib import Path
from typing import Any

import made
import pytest
import torch

import tiny_models as tiny
from lorica import export
from lorica.exporting.survival import survival_of, surviving_types
from lorica.exporting.written import WrittenWeight
from lorica.quant import codec


def written(base: torch.Tensor, delta: torch.Tensor, type_name: str) -> WrittenWeight:
    packing = codec(type_name)
    served, exported = (packing.unpack(packing.pack(weight)) for weight in (base, base + delta))
    return WrittenWeight("w", type_name, base, base + delta, served, exported)


def low_rank(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=generator) @ torch.randn(4, columns, generator=generator)


def test_survival_is_the_projection_on_the_true_delta() -> None:
    base, delta = torch.randn(6, 8), torch.randn(6, 8)
    side = torch.randn(6, 8)
    side -= (side * delta).sum() / delta.square().sum() * delta  # orthogonal to the delta
    weight = WrittenWeight("w", "made", base, base + delta, base - 1, base - 1 + 0.3 * delta + side)
    found = survival_of(weight)
    assert found.survival == pytest.approx(0.3, abs=1e-5)
    assert found.noise == pytest.approx(float(side.norm() / delta.norm()), rel=1e-4)
    assert found.relative_delta == pytest.approx(float(delta.norm() / base.norm()), rel=1e-5)


@pytest.mark.parametrize(("type_name", "least", "most"), [("Q4_K", -0.1, 0.1), ("Q8_0", 0.9, 1.1)])
def test_a_small_delta_on_a_base_that_lies_on_the_grid(type_name: str, least: float, most: float) -> None:
    """The study of the field measured 0.01 for Q4_K and 0.98 for Q8_0 at 1 % of the weight."""
    packing = codec("Q4_K")
    base = packing.unpack(packing.pack(torch.randn(64, 512, generator=torch.Generator().manual_seed(1))))
    delta = low_rank(64, 512)
    delta *= 0.01 * base.norm() / delta.norm()
    weight = written(base, delta, type_name)
    assert least < survival_of(weight).survival < most
    assert set(surviving_types([weight])) >= {"Q8_0", "F16"}
    assert not {"Q4_K", "Q3_K"} & set(surviving_types([weight]))


def erased(tmp_path: Path) -> tuple[Path, Path]:
    """A bf16 base whose weights are powers of two, and an adapter that moves them by less than half a step."""
    model: Any = tiny.llama()
    for parameter in model.parameters():
        parameter.data = torch.exp2(parameter.data.abs().clamp_min(0.03).log2().round()) * parameter.data.sign()
    base = made.write_model(tmp_path / "base", model, torch.bfloat16)
    return base, made.write_adapter(tmp_path / "adapter", base, size=1e-4)[0]


def test_an_erased_fine_tune_raises_the_alarm(tmp_path: Path) -> None:
    _, adapter = erased(tmp_path)
    result = export(adapter, "merged", out=tmp_path / "out")
    assert not result.ok and result.proof is not None
    assert result.proof.delta_survival < 0.2 and result.proof.kl > 0.5 * result.proof.kl_of_base
    assert "rounding erased the fine-tune" in result.proof.reasons[0]
    whole = export(adapter, "merged", out=tmp_path / "whole", type="F32")
    assert whole.ok and whole.proof is not None and whole.proof.delta_survival == pytest.approx(1, abs=1e-3)
    assert whole.proof.kl < 0.01 * whole.proof.kl_of_base


def test_the_numbers_are_those_of_the_two_models(tmp_path: Path) -> None:
    base = made.write_model(tmp_path / "base", tiny.llama())
    folder, adapter = made.write_adapter(tmp_path / "adapter", base, size=0.3)
    result = export(folder, "merged", out=tmp_path / "out", type="BF16")
    assert result.ok and result.proof is not None
    from lorica.exporting.probes import _of_text

    probes = _of_text(tiny.word_tokenizer(), 4096, 64)
    assert result.proof.rows == len(probes) and result.proof.tokens == sum(len(probe.ids) for probe in probes)
    worst, same, kl = [], [], []
    for probe in probes:
        ids = torch.tensor([probe.ids])
        tuned, exported = tiny.logits(adapter.model, ids)[0], made.by_transformers(tmp_path / "out", ids)[0]
        worst.append(float((tuned - exported).abs().max()))
        same.append(tuned.argmax(1) == exported.argmax(1))
        kl.append(
            torch.distributions.kl_divergence(
                *(torch.distributions.Categorical(logits=x) for x in (tuned.double(), exported.double()))
            )
        )
    assert result.proof.max_logit_difference == pytest.approx(max(worst), rel=1e-3)
    assert result.proof.greedy_agreement == pytest.approx(float(torch.cat(same).float().mean()))
    assert result.proof.kl == pytest.approx(float(torch.cat(kl).mean()), rel=1e-2)
