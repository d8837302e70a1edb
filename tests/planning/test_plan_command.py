"""`lorica plan` from end to end, and what is kept of runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bases import write_rows
from lorica.cli import run
from lorica.planning.here import read_profile, write_profile
from lorica.planning.history import history_path, read_history, remember
from lorica.planning.machine import Machine

SMALL = ["--length", "32", "system.tokens_per_microbatch=64", "lora.r=4"]


def test_keys_that_others_rely_on(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--model", str(tiny_base), "--rows", "100", "--price", "3.6", "--json", *SMALL]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True and plan["steps"] == 7
    assert sum(plan["terms"].values()) == plan["peak_bytes"] > plan["tensor_bytes"] > 0
    assert plan["settings"]["tokens_per_microbatch"] == 64
    assert plan["cost"] == pytest.approx(plan["seconds"] / 1000)


def test_the_rows_of_a_file_are_planned_for_whatever_it_is_called(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{i} is", "completion": f" {i}"} for i in range(48)])
    command = ["plan", "--model", str(tiny_base), "--data", "rows.jsonl", "train.batch_size=8", "--json"]
    assert run([*command, "evaluate.held_out=0.25"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5, "36 rows are left to train on, 8 a step"


def test_rows_that_cannot_be_read_are_told_as_before_a_training(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"ask": f"{i} is", "reply": f" {i}"} for i in range(48)])
    assert run(["plan", "--model", str(tiny_base), "--data", str(rows)]) == 1
    told = capsys.readouterr().err
    assert "It has the keys ask, reply" in told and "data.columns" in told


def test_units_misread_end_with_one_paragraph(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--model", str(tiny_base), "--memory", "24"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: --memory is '24'") and told.count("\n") == 1


def test_a_model_that_cannot_be_rehearsed_is_said(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def needs_a_value(*_: object) -> None:
        raise NotImplementedError("no rule for aten::item")

    monkeypatch.setattr("lorica.planning.step.StepRunner.run", needs_a_value)
    assert run(["plan", "--model", str(tiny_base), *SMALL]) == 1
    assert "cannot be rehearsed without values (no rule for aten::item)" in capsys.readouterr().err


def test_a_comparison(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--model", str(tiny_base), "--gpu", "RTX4090", "--compare", "--json", *SMALL]) == 0
    rows = {row["way"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows)[:2] == ["full", "lora"] and {"nf4", "q4_k_m"} <= rows.keys()
    assert rows["full"]["terms"]["optimiser"] > rows["lora"]["terms"]["optimiser"]
    assert "T4" in rows["full"]["gpus"] and "T4" not in rows["lora"]["gpus"], "bf16 is not for a T4"
    assert rows["lora"]["longest"] == 96, "as many as there are positions"


@pytest.mark.parametrize("start", ["true", "loftq"])
def test_a_comparison_from_a_packed_base(tiny_base: Path, capsys: pytest.CaptureFixture[str], start: str) -> None:
    """Full fine-tuning and plain LoRA are those of the base as it is, whatever the configuration packs it as."""
    command = ["plan", "--model", str(tiny_base), "--gpu", "RTX4090", "--compare", "--json", *SMALL]
    assert run(command) == 0
    plain = {row["way"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert run([*command, "model.weights=nf4", f"lora.init_lora_weights={start}"]) == 0
    rows = {row["way"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert all(rows[way]["terms"] == plain[way]["terms"] for way in rows)


@pytest.mark.parametrize("content", ["{", "[1]", '{"rates": {}, "speed": 3}', '{"name": "x"}'])
def test_a_profile_that_is_damaged_or_of_another_version_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine("a CPU", "cpu", 10**12, {"fp32": [(16, 1e9)]}, 1e9, 1e-6, 0, None, "made up")
    assert read_profile(machine.name) is None
    path = write_profile(machine)
    assert read_profile(machine.name) == machine
    path.write_text(content)
    assert read_profile(machine.name) is None


def test_history_is_kept_and_survives_damage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert read_history() == []
    entry = {"run": "runs/x", "planned": {"peak_bytes": 10}, "measured": {"peak_bytes": 11}}
    remember(entry)
    with history_path().open("a") as file:
        file.write('{"half a li\n[1]\n')
    remember(entry | {"run": "runs/y"})
    assert [found["run"] for found in read_history()] == ["runs/x", "runs/y"]


@pytest.mark.soak
def test_a_plan_that_fits_runs_under_its_budget() -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "plan_budgets.py"
    done = subprocess.run([sys.executable, script, "20"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ended: fits") >= 5
