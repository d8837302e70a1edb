"""`train.lr: auto`: what is tried and what that takes, the run that follows, and that it can be stopped anywhere."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bases import sums, write_base, write_rows
from lorica.config import ConfigError, default_learning_rate, load
from lorica.evaluation.terminal import print_report
from lorica.run import train
from lorica.run.watch import Watcher
from lorica.sweeping import sweep
from lorica.sweeping.learning_rate import FACTORS, HORIZON, SHARE, _lowest_point
from lorica.training.checkpoint import load_newest, save_checkpoint
from lorica.training.interrupt import Interrupted

STEPS = 160  # of which a lane has four


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(write_base(tmp_path / "base")),
        "data": str(write_rows(tmp_path / "rows.jsonl", sums(60))),
        "train": {"steps": STEPS, "batch_size": 2, "seed": 1, "lr": "auto"},
        "lora": {"r": 3, "alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]},
        "evaluate": {"held_out": 0.2, "samples": 0, "forgetting": None},
        "system": {"cache": str(tmp_path / "cache"), "device": "cpu"},
    }


def with_train(base: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return base | {"train": base["train"] | settings}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Stopper(Watcher):
    """Sends Ctrl-C once so many steps were recorded, and keeps what was told."""

    def __init__(self, after: int) -> None:
        self.left, self.told = after, list[str]()

    def notice(self, text: str) -> None:
        self.told.append(text)

    def record(self, record: dict[str, float | int], total_steps: int) -> None:
        import signal

        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_a_few_short_runs_choose_the_rate_of_the_run(base: dict[str, Any], tmp_path: Path) -> None:
    result = train(**base, out=str(tmp_path / "run"))
    assert result.report is not None
    found = result.report["learning_rate"]
    assert found == read(tmp_path / "run/learning_rate.json")
    rule, _ = default_learning_rate(24, "llama", "lora")
    steps = found["rows"][0]["steps"]
    tried = [float(row["settings"]["train.lr"]) for row in found["rows"]]
    assert tried == pytest.approx([rule * factor * (STEPS / steps) ** HORIZON for factor in FACTORS], rel=5e-3)
    assert found["chosen"] == pytest.approx(found["lowest"] * found["shift"], rel=5e-3)
    best = min(range(len(tried)), key=lambda at: found["rows"][at]["held_out_loss"])
    assert tried[max(0, best - 1)] <= found["lowest"] * 1.01 and found["lowest"] <= tried[min(best + 1, 4)] * 1.01
    # What it took, counted from the metrics of every lane and of the run.
    lanes = [lines(path) for path in sorted((tmp_path / "run/search").glob("*/metrics.jsonl"))]
    whole = lines(tmp_path / "run/metrics.jsonl")
    spent, all_of_it = (sum(r["tokens"] for r in records) for records in ([r for lane in lanes for r in lane], whole))
    assert found["tokens"] == spent <= SHARE * all_of_it
    assert found["share_of_tokens"] == pytest.approx(spent / all_of_it)
    assert len(lanes) == 5 and all(len(lane) == steps for lane in lanes) and len(whole) == STEPS
    assert max(record["lr"] for record in whole) == pytest.approx(found["chosen"], rel=1e-6), "started anew with it"
    # Everywhere it is told.
    origin = result.report["settings"]["train.lr"]
    assert origin["value"] == found["chosen"] and "5 short runs" in origin["origin"]
    assert f"lr: {found['chosen']}" in (tmp_path / "run/config.yaml").read_text()
    page = (tmp_path / "run/report.html").read_text()
    assert "<title>held-out loss by train.lr</title>" in page and page.count('<circle class="finished"') == 5
    with Console(width=200, record=True) as console:
        print_report(result.report, console)
    assert f"learning rate {found['chosen']:g} (auto)" in console.export_text()


def test_a_lane_of_the_search_is_a_short_run(base: dict[str, Any], tmp_path: Path) -> None:
    base = with_train(base, loraplus_lr_ratio=4.0, warmup=70)
    found = train(**base, out=str(tmp_path / "run"))
    assert found.report is not None
    row = found.report["learning_rate"]["rows"][1]
    short = with_train(base, lr=float(row["settings"]["train.lr"]), steps=row["steps"], warmup=0.5)
    alone = train(**short, out=str(tmp_path / "alone"))
    assert alone.report is not None
    assert row["held_out_loss"] == pytest.approx(alone.report["after"]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "after", [pytest.param(1, marks=pytest.mark.slow), pytest.param(15, marks=pytest.mark.slow), 30]
)
def test_stopped_anywhere_it_searches_once_and_ends_the_same(base: dict[str, Any], tmp_path: Path, after: int) -> None:
    train(**base, out=str(tmp_path / "whole"))
    with pytest.raises(Interrupted, match="lorica train --resume"):
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(after))
    searched = (tmp_path / "run/learning_rate.json").exists()
    assert searched == (after > 20)
    watcher = Stopper(10**6)
    result = train(resume=str(tmp_path / "run"), watcher=watcher)
    assert any("searching" in told for told in watcher.told) != searched
    one, other = (read(tmp_path / name / "learning_rate.json") for name in ("run", "whole"))
    assert [row["held_out_loss"] for row in one["rows"]] == [row["held_out_loss"] for row in other["rows"]]
    weights = [(tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1], "bit for bit"
    assert result.report is not None
    settings = [read(tmp_path / name / "report.json")["settings"]["train.lr"] for name in ("run", "whole")]
    assert settings[0] == settings[1]
    receipts = [read(tmp_path / name / "receipt.json")["settings_hash"] for name in ("run", "whole")]
    assert receipts[0] == receipts[1]
    written = [(tmp_path / name / "config.yaml").read_text() for name in ("run", "whole")]
    assert written[0] == written[1].replace(str(tmp_path / "whole"), str(tmp_path / "run")), "the origins too"


def test_a_process_killed_between_the_files_that_name_the_rate(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(30))
    config = tmp_path / "run/config.yaml"
    found, whole = read(tmp_path / "run/learning_rate.json"), config.read_text()
    assert f"  lr: {found['chosen']}  # derived" in whole
    config.write_text(whole.replace(f"  lr: {found['chosen']}  # derived", "  lr: auto  # derived"))
    train(resume=str(tmp_path / "run"))
    assert config.read_text() == whole
    assert max(record["lr"] for record in lines(tmp_path / "run/metrics.jsonl")) == pytest.approx(found["chosen"])


def test_a_process_killed_while_it_saved_some_lanes(base: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    train(**base, out=str(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(12))
    for trial in sorted((tmp_path / "run/search").iterdir())[3:]:
        shutil.rmtree(trial)
    train(resume=str(tmp_path / "run"))
    one, other = (read(tmp_path / name / "learning_rate.json") for name in ("run", "whole"))
    assert one["chosen"] == other["chosen"] and one["tokens"] == other["tokens"]
    for row, expected in zip(one["rows"], other["rows"], strict=True):
        assert row["held_out_loss"] == pytest.approx(expected["held_out_loss"], rel=1e-5)


@pytest.mark.parametrize("poisoned", [1, 5])
def test_rates_that_diverge(base: dict[str, Any], tmp_path: Path, poisoned: int) -> None:
    with pytest.raises(Interrupted):
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(12))
    for trial in sorted((tmp_path / "run/search").iterdir())[-poisoned:]:
        newest = load_newest(trial / "checkpoints", print)
        assert newest is not None
        progress, tensors = newest
        tensors = {name: tensor * math.inf if name.endswith("lora_B") else tensor for name, tensor in tensors.items()}
        save_checkpoint(trial / "checkpoints", progress, tensors, keep=1)
    if poisoned == 5:
        with pytest.raises(ValueError, match=r"every learning rate that train\.lr: auto tried"):
            train(resume=str(tmp_path / "run"))
        return
    result = train(resume=str(tmp_path / "run"))
    assert result.report is not None
    rows = result.report["learning_rate"]["rows"]
    assert "loss of nan" in rows[-1]["failed"] and rows[-1]["held_out_loss"] is None
    assert all(row["failed"] is None for row in rows[:-1])
    assert "diverged" in (tmp_path / "run/report.html").read_text()


def test_without_held_out_rows_the_training_loss_decides(base: dict[str, Any], tmp_path: Path) -> None:
    train(**base | {"evaluate": {"enabled": False}}, out=str(tmp_path / "run"))
    found = read(tmp_path / "run/learning_rate.json")
    assert "no rows are held out" in found["reason"]
    for path, row in zip(sorted((tmp_path / "run/search").glob("*/metrics.jsonl")), found["rows"], strict=True):
        losses = [record["loss"] for record in lines(path)]
        assert row["held_out_loss"] == pytest.approx(sum(losses[2:]) / len(losses[2:]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 100}, "too few to say anything"),
        ({"lr": "automatic"}, "train.lr: got .automatic"),
    ],
)
def test_searches_that_cannot_be(base: dict[str, Any], tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        train(**with_train(base, **settings), out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_other_places_refuse_a_search(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.lr: auto and method: full"):
        load(values={"model": "m", "data": "d", "method": "full", "train": {"lr": "auto"}})
    with pytest.raises(ConfigError, match="cannot be combined"):
        load(values={"model": "m", "data": "d", "lora": {"modules_to_save": ["lm_head"]}, "train": {"lr": "auto"}})
    for grid in (["train.lr=auto,1e-3"], ["lora.r=2,4"]):
        with pytest.raises(ValueError, match="the search is of one run"):
            sweep(overrides=grid, out=tmp_path / "sweep", **base)
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(ValueError, match="keeps its own configuration"):
        train(None, ["train.lr=auto"], resume=str(tmp_path / "run"))


def test_without_a_value_the_rule_is_taken(base: dict[str, Any], tmp_path: Path) -> None:
    del base["train"]["lr"]
    result = train(**with_train(base, steps=3), out=str(tmp_path / "run"))
    assert result.report is not None and result.report["learning_rate"] is None
    rule, reason = default_learning_rate(24, "llama", "lora")
    assert result.report["settings"]["train.lr"] == {"value": rule, "origin": f"derived: {reason}"}
    assert "auto chose" not in (tmp_path / "run/report.html").read_text()


def test_the_lowest_point_of_a_parabola_is_found() -> None:
    truth = 3.7e-3
    rates = [1e-3, 2.2e-3, 5e-3, 1.1e-2]
    points = [(rate, 2 + 0.3 * math.log(rate / truth) ** 2) for rate in rates]
    assert _lowest_point(points) == (pytest.approx(truth), None)
    assert _lowest_point(points[:2]) == (pytest.approx(2.2e-3), "upper")
    assert _lowest_point(points[2:]) == (pytest.approx(5e-3), "lower")
    diverged: list[tuple[float, float | None]] = [*points[:2], (5e-3, None)]
    assert _lowest_point(diverged) == (pytest.approx(2.2e-3), None), "beyond it is no loss to lay a parabola through"
