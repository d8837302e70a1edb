"""The proof of a run's export: its held-out rows and its metric, and an export that is nothing but the base."""

from pathlib import Path
from typing import Any

import pytest

import lorica
from bases import sums, write_base, write_rows
from lorica.exporting.proof import prove
from lorica.exporting.weights import read_weights_of
from lorica.exporting.written import Written, WrittenWeight
from lorica.run import Watcher
from lorica.run.reopen import Opened
from lorica.run.source import open_source


def packed_run(folder: Path, weights: str, lora: dict[str, Any]) -> tuple[Path, Path]:
    """A base, and a short run on it packed on loading."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    base, out = write_base(folder / "base", **sizes), folder / "run"
    lorica.train(
        model={"path": str(base), "weights": weights},
        data=str(write_rows(folder / "rows.jsonl", sums())),
        out=str(out),
        lora=lora,
        train={"steps": 8, "batch_size": 4, "lr": 0.02},
        evaluate={"held_out": 0.2, "forgetting": None, "max_new_tokens": 3},
        system={"threads": 1},
    )
    return base, out


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proof")
    evaluate = {"held_out": 0.2, "forgetting": None, "max_new_tokens": 8, "metric": "chrf"}
    settings = {"lora": {"r": 3, "alpha": 5}, "train": {"steps": 12, "batch_size": 4, "lr": 0.02}}
    data = write_rows(folder / "rows.jsonl", sums())
    out = folder / "run"
    lorica.train(
        model=str(tiny_base), data=str(data), out=str(out), evaluate=evaluate, system={"threads": 1}, **settings
    )
    return out


def test_an_export_that_lost_everything(run: Path, tiny_base: Path) -> None:
    source = open_source(run)
    weights = read_weights_of(source)

    def erased() -> list[WrittenWeight]:
        bases = ((name, stored.read().float(), change) for name, stored, change in weights.changed())
        return [WrittenWeight(name, "F32", base, change.apply(base), base, base) for name, base, change in bases]

    def reopen(dtype: str) -> Opened:
        return Opened(lorica.load(tiny_base, dtype=dtype), None, False)

    proof = prove(source, weights, Written([], lambda: iter(erased()), reopen, exact=False), Watcher())
    report = lorica.run.reopen.read_report(run)
    before, after = (report[side]["metrics"]["chrf"] for side in ("before", "after"))
    assert abs(before - after) > 0.5
    assert proof.metric_change == {"chrf": pytest.approx(before - after, abs=1e-6)}
    assert proof.kl == pytest.approx(proof.kl_of_base, rel=1e-9) and proof.kl > 0.01
    assert proof.delta_survival == 0 and proof.noise == 0 and not proof.ok
    assert proof.rows == 8 and "F16" in proof.survives_as


def test_a_right_one_changes_no_metric(run: Path, tmp_path: Path) -> None:
    result = lorica.export(run, "merged", out=tmp_path / "out")
    assert result.ok and result.proof is not None
    assert result.proof.metric_change == {"chrf": 0.0} and result.proof.greedy_agreement == 1.0


def test_a_run_on_a_base_packed_on_loading(tmp_path: Path) -> None:
    """What was trained is the adapter on the packed base; merging into the stored one moves it by the packing's
    error, which the proof shows."""
    _, out = packed_run(tmp_path, "q4_0", {"r": 3, "alpha": 5})
    merged = lorica.export(out, "merged", out=tmp_path / "merged")
    adapter = lorica.export(out, "peft", out=tmp_path / "peft")
    assert merged.proof is not None and adapter.proof is not None
    assert adapter.proof.kl == 0 and adapter.ok
    assert merged.proof.max_logit_difference > 1e-3 and merged.proof.delta_survival == pytest.approx(1, abs=1e-4)
    assert any("packed" in note for note in merged.notes)


def test_a_run_that_began_with_what_packing_lost(tmp_path: Path) -> None:
    """Merged, packed to eight bits and as an adapter by itself it computes what was trained: on the packed base."""
    base, out = packed_run(tmp_path, "nf4", {"r": 6, "alpha": 20, "init_lora_weights": "loftq"})
    merged = lorica.export(out, "merged", out=tmp_path / "merged")
    assert merged.proof is not None and merged.ok
    assert merged.proof.kl < 1e-8 and merged.proof.kl_of_base > 1e-4
    assert any("as they were packed" in note for note in merged.notes)
    gguf = lorica.export(out, "gguf", type="F32", out=tmp_path / "gguf")
    assert gguf.proof is not None and gguf.proof.kl < 1e-8
    alone = lorica.export(out / "adapter", "peft", out=tmp_path / "peft", base=base)
    assert alone.proof is not None and alone.proof.kl == 0
    assert any("serve it beside a base packed so" in note for note in alone.notes)
    opened = lorica.run.reopen.open_for_answers(out / "adapter")  # the adapter says how its base is packed
    assert opened.base.hashes["weights"] == "nf4"
    with pytest.raises(ValueError, match="packing the base as nf4 lost"):
        lorica.lora.load_adapter(lorica.load(base), out / "adapter")
