"""Whole sweeps over a tiny base: what they leave, who wins, and that they can be stopped anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from bases import sums, write_base, write_rows
from lorica.config import ConfigError
from lorica.run import train
from lorica.run.reopen import open_for_answers, read_report
from lorica.run.watch import Watcher
from lorica.sweeping import sweep
from lorica.sweeping.sweep import read_result
from lorica.training.checkpoint import load_newest, save_checkpoint
from lorica.training.interrupt import Interrupted
from lorica.training.run_folder import RunFolder

GRID = ["train.lr=1e-4,1e-2,1e-1", "lora.r=2,4"]


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(write_base(tmp_path / "base")),
        "data": str(write_rows(tmp_path / "rows.jsonl", sums(60))),
        "train": {"steps": 12, "batch_size": 4, "seed": 1},
        "lora": {"alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]},
        "evaluate": {"held_out": 0.2, "samples": 0},
        "system": {"cache": str(tmp_path / "cache"), "device": "cpu"},
    }


def test_the_best_is_finished_and_the_rest_is_stopped(base: dict[str, Any], tmp_path: Path) -> None:
    result = sweep(overrides=GRID, out=tmp_path / "sweep", **base)
    assert result.spent["compared_after_steps"] == [4, 12]
    assert [row["steps"] for row in result.rows] == [12, 12, 4, 4, 4, 4]
    losses = [row["held_out_loss"] for row in result.rows[:2]]
    assert losses == sorted(losses) and result.best["held_out_loss"] == losses[0]
    assert result.best["settings"]["train.lr"] != "1e-4"
    stopped = [row["by_step"]["4"] for row in result.rows[2:]]
    assert max(row["by_step"]["4"] for row in result.rows[:2]) <= min(stopped)
    assert read_result(tmp_path / "sweep") == json.loads(json.dumps(result.to_dict()))
    report = json.loads((tmp_path / "sweep/best/report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(result.best["held_out_loss"], rel=1e-5)
    for look in (read_report, open_for_answers):
        with pytest.raises(ValueError, match=f"the best run is {tmp_path}/sweep/best"):
            look(tmp_path / "sweep")
    page = (tmp_path / "sweep/sweep.html").read_text()
    assert page.count("<tr") == 7 and page.count('<svg class="chart"') == 2


def test_the_winner_is_the_run_it_would_have_been(base: dict[str, Any], tmp_path: Path) -> None:
    result = sweep(overrides=GRID, out=tmp_path / "sweep", **base)
    settings = [f"{key}={value}" for key, value in result.best["settings"].items()]
    train(overrides=settings, out=str(tmp_path / "alone"), **base)
    found, alone = (RunFolder(tmp_path / name) for name in ("sweep/best", "alone"))
    losses = [[record["loss"] for record in run.read_metrics()] for run in (found, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    from safetensors.torch import load_file

    pairs = [load_file(run.adapter / "adapter_model.safetensors") for run in (found, alone)]
    for name, tensor in pairs[1].items():
        assert float((pairs[0][name] - tensor).norm() / tensor.norm().clamp_min(1e-3)) < 1e-4, name


@pytest.mark.parametrize("lanes", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_how_many_go_together_changes_nothing(base: dict[str, Any], tmp_path: Path, lanes: int) -> None:
    all_at_once = sweep(overrides=GRID, out=tmp_path / "all", **base)
    found = sweep(overrides=GRID, out=tmp_path / "few", lanes=lanes, **base)
    assert [row["name"] for row in found.rows] == [row["name"] for row in all_at_once.rows]
    for row, expected in zip(found.rows, all_at_once.rows, strict=True):
        assert row["held_out_loss"] == pytest.approx(expected["held_out_loss"], rel=1e-5)


class Stopper(Watcher):
    """Sends Ctrl-C once so many steps were recorded."""

    def __init__(self, after: int) -> None:
        self.left = after

    def record(self, record: dict[str, float | int], total_steps: int) -> None:
        import signal

        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "after", [pytest.param(1, marks=pytest.mark.slow), 20, pytest.param(27, marks=pytest.mark.slow)]
)
def test_stopped_and_resumed_it_is_the_same_sweep(base: dict[str, Any], tmp_path: Path, after: int) -> None:
    whole = sweep(overrides=GRID, out=tmp_path / "whole", lanes=3, **base)
    with pytest.raises(Interrupted, match="lorica sweep --resume"):
        sweep(overrides=GRID, out=tmp_path / "stopped", lanes=3, watcher=Stopper(after), **base)
    with pytest.raises(ValueError, match="not finished"):
        read_result(tmp_path / "stopped")
    resumed = sweep(resume=tmp_path / "stopped", lanes=3)
    for row, expected in zip(resumed.rows, whole.rows, strict=True):
        assert row["settings"] == expected["settings"] and row["steps"] == expected["steps"]
        assert row["held_out_loss"] == expected["held_out_loss"], "bit for bit"


class StopsWhileFinishing(Watcher):
    """Sends Ctrl-C when the winner is measured."""

    def __init__(self) -> None:
        self.sent = False

    def stage(self, name: str, done: int, total: int) -> None:
        import signal

        if name == "held-out rows" and not self.sent:
            self.sent = True
            signal.raise_signal(signal.SIGINT)


def test_stopped_while_the_winner_is_measured(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=f"lorica sweep --resume {tmp_path}/sweep$"):
        sweep(overrides=GRID, out=tmp_path / "sweep", watcher=StopsWhileFinishing(), **base)
    assert RunFolder(tmp_path / "sweep/best").holds_a_run()
    result = sweep(resume=tmp_path / "sweep")
    report = json.loads((tmp_path / "sweep/best/report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(result.best["held_out_loss"], rel=1e-5)
    assert report["plan"] is None, "the plan is of a run alone"


def test_other_rows_are_not_gone_on_with(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        sweep(overrides=GRID, out=tmp_path / "sweep", watcher=Stopper(1), **base)
    write_rows(tmp_path / "rows.jsonl", sums(61))
    with pytest.raises(ValueError, match="the data is not what the run"):
        sweep(resume=tmp_path / "sweep")
    with pytest.raises(ValueError, match="holds no run"):
        train(resume=tmp_path / "sweep")


def test_a_trial_that_diverges_is_stopped_and_told(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        sweep(overrides=GRID, out=tmp_path / "sweep", share=1, watcher=Stopper(13), **base)
    [poisoned] = (tmp_path / "sweep/trials").glob("002-*")
    found = load_newest(poisoned / "checkpoints", print)
    assert found is not None
    progress, tensors = found
    tensors = {name: tensor * float("inf") if name.endswith("lora_B") else tensor for name, tensor in tensors.items()}
    save_checkpoint(poisoned / "checkpoints", progress, tensors, keep=1)
    result = sweep(resume=tmp_path / "sweep")
    assert [row["name"] for row in result.rows if row["failed"]] == [poisoned.name] == [result.rows[-1]["name"]]
    assert "loss of nan" in result.rows[-1]["failed"] and result.rows[-1]["steps"] == progress.step
    assert [row["steps"] for row in result.rows[:-1]] == [12] * 5
    assert poisoned.name in json.dumps(read_result(tmp_path / "sweep"))


def test_batch_sizes_are_compared_at_the_same_share(base: dict[str, Any], tmp_path: Path) -> None:
    base["train"] = {"epochs": 2, "batch_size": 4}
    result = sweep(overrides=["train.batch_size=4,8", "train.lr=1e-3,1e-2"], out=tmp_path / "sweep", share=2, **base)
    first = {row["settings"]["train.batch_size"]: min(map(int, row["by_step"])) for row in result.rows}
    assert first["4"] == 2 * first["8"]


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (["train.lr=1e-4"], "nothing is varied"),
        (["train.lrr=1e-4,1e-3"], "train.lrr"),
        (["train.lr=1e-4,7"], "train.lr"),
        (["data.max_length=8,16"], "varies lora"),
        (["train.lr=1e-4,1e-3", "method=full"], "method: full and a sweep cannot be combined"),
        (["train.lr=1e-4,1e-3", "lora.modules_to_save=[lm_head]"], "modules_to_save cannot be combined"),
        (["train.lr=1e-4,1e-3", "evaluate.enabled=false"], "held-out rows"),
        (["train.lr=1e-4,1e-3", "evaluate.every=2"], "a sweep and evaluate.every cannot be combined"),
    ],
)
def test_sweeps_that_cannot_be(base: dict[str, Any], tmp_path: Path, grid: list[str], told: str) -> None:
    base = {key: value for key, value in base.items() if key not in ("lora", "evaluate")}
    with pytest.raises((ValueError, ConfigError), match=told):
        sweep(overrides=grid, out=tmp_path / "sweep", **base)
    assert not (tmp_path / "sweep").exists()


def test_a_folder_that_is_taken_or_holds_no_sweep(base: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        sweep(overrides=GRID, out=tmp_path / "taken", **base)
    with pytest.raises(ValueError, match="holds no sweep"):
        sweep(resume=tmp_path / "taken")
    assert (tmp_path / "taken/mine.txt").read_text() == "mine"
