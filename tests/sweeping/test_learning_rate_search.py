"""`train.lr: auto`: what is tried and what that takes, the run that follows, and that it can be stopped anywhere."""

import json
import math
import shutil
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bases import sums, write_base, write_rows
from lorica.config import ConfigError, default_learning_rate, load
from lorica.evaluation.terminal import print_report
from lorica.run import train
from lorica.run.watch import Watcher
from lorica.sweeping import sweep
from lorica.sweeping.learning_rate import FACTORS, SHARE, _winner
from lorica.training.checkpoint import load_newest, save_checkpoint
from lorica.training.interrupt import Interrupted

STEPS = 150  # of which a lane has eleven, one of them warm-up


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(write_base(tmp_path / "base")),
        "data": str(write_rows(tmp_path / "rows.jsonl", sums(60))),
        "train": {"steps": STEPS, "warmup": 1, "batch_size": 2, "seed": 1, "lr": "auto"},
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


def test_the_best_of_three_rates_goes_on(base: dict[str, Any], tmp_path: Path) -> None:
    result = train(**base, out=str(tmp_path / "run"))
    assert result.report is not None
    found = result.report["learning_rate"]
    assert found == read(tmp_path / "run/learning_rate.json")
    rule, _ = default_learning_rate(24, "llama", "lora")
    tried = {float(row["settings"]["train.lr"]): row["held_out_loss"] for row in found["rows"]}
    assert list(tried) == pytest.approx([rule * factor for factor in FACTORS], rel=5e-3)
    assert found["chosen"] == min(tried, key=lambda rate: tried[rate]), "clearly, for such a small model"
    # What it took, counted from the metrics of every lane and of the run.
    steps = found["rows"][0]["steps"]
    lanes = {path.parent.name: lines(path) for path in sorted((tmp_path / "run/search").glob("*/metrics.jsonl"))}
    whole = lines(tmp_path / "run/metrics.jsonl")
    kept = lanes.pop(found["goes_on"].removeprefix("search/"))
    spent = sum(record["tokens"] for lane in lanes.values() for record in lane)
    all_of_it = sum(record["tokens"] for record in whole)
    assert found["tokens"] == spent <= SHARE * all_of_it < spent + 2 * whole[steps]["tokens"]
    assert found["share_of_tokens"] == pytest.approx(spent / all_of_it)
    assert len(lanes) == 2 and all(len(lane) == steps for lane in lanes.values())
    assert len(whole) == STEPS and whole[:steps] == kept, "nothing of it is computed twice"
    # Everywhere it is told.
    origin = result.report["settings"]["train.lr"]
    assert origin["value"] == found["chosen"] and found["reason"] in origin["origin"]
    assert f"lr: {found['chosen']}" in (tmp_path / "run/config.yaml").read_text()
    page = (tmp_path / "run/report.html").read_text()
    assert "<title>held-out loss by train.lr</title>" in page and page.count('<circle class="finished"') == 3
    with Console(width=200, record=True) as console:
        print_report(result.report, console)
    assert f"learning rate {found['chosen']:g} (auto)" in console.export_text()


def test_the_run_is_the_one_that_its_rate_alone_would_have_been(base: dict[str, Any], tmp_path: Path) -> None:
    base = with_train(base, loraplus_lr_ratio=4.0, schedule="cosine", warmup=0.01)
    found = train(**base, out=str(tmp_path / "run"))
    assert found.report is not None
    alone = train(**with_train(base, lr=found.report["learning_rate"]["chosen"]), out=str(tmp_path / "alone"))
    assert alone.report is not None
    assert found.report["after"]["loss"] == pytest.approx(alone.report["after"]["loss"], rel=1e-4)
    for one, other in zip(*(lines(tmp_path / name / "metrics.jsonl") for name in ("run", "alone")), strict=True):
        assert one["lr"] == other["lr"] and one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "after", [pytest.param(1, marks=pytest.mark.slow), pytest.param(15, marks=pytest.mark.slow), 45]
)
def test_stopped_anywhere_it_searches_once_and_ends_the_same(base: dict[str, Any], tmp_path: Path, after: int) -> None:
    train(**base, out=str(tmp_path / "whole"))
    with pytest.raises(Interrupted, match="lorica train --resume"):
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(after))
    searched = (tmp_path / "run/learning_rate.json").exists()
    assert searched == (after > 3 * 11)
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
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(45))
    config = tmp_path / "run/config.yaml"
    found, whole = read(tmp_path / "run/learning_rate.json"), config.read_text()
    assert f"  lr: {found['chosen']}  # derived" in whole
    config.write_text(whole.replace(f"  lr: {found['chosen']}  # derived", "  lr: auto  # derived"))
    train(resume=str(tmp_path / "run"))
    assert config.read_text() == whole
    assert max(record["lr"] for record in lines(tmp_path / "run/metrics.jsonl")) == pytest.approx(found["chosen"])


def test_a_process_killed_before_the_run_takes_over_from_its_lane(base: dict[str, Any], tmp_path: Path) -> None:
    class Killer(Watcher):
        def notice(self, text: str) -> None:
            if text.startswith("learning rate"):
                raise KeyboardInterrupt

    train(**base, out=str(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(**base, out=str(tmp_path / "run"), watcher=Killer())
    assert (tmp_path / "run/learning_rate.json").exists() and not (tmp_path / "run/checkpoints").exists()
    train(resume=str(tmp_path / "run"))
    weights = [(tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1], "bit for bit"
    assert len(lines(tmp_path / "run/metrics.jsonl")) == STEPS


def test_a_process_killed_while_it_saved_some_lanes(base: dict[str, Any], tmp_path: Path) -> None:
    train(**base, out=str(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(12))
    for trial in sorted((tmp_path / "run/search").iterdir())[2:]:
        shutil.rmtree(trial)
    train(resume=str(tmp_path / "run"))
    one, other = (read(tmp_path / name / "learning_rate.json") for name in ("run", "whole"))
    assert one["chosen"] == other["chosen"] and one["tokens"] == other["tokens"]
    for row, expected in zip(one["rows"], other["rows"], strict=True):
        assert row["held_out_loss"] == pytest.approx(expected["held_out_loss"], rel=1e-5)


@pytest.mark.parametrize("poisoned", [1, 3])
def test_rates_that_diverge(base: dict[str, Any], tmp_path: Path, poisoned: int) -> None:
    with pytest.raises(Interrupted):
        train(**base, out=str(tmp_path / "run"), watcher=Stopper(12))
    for trial in sorted((tmp_path / "run/search").iterdir())[-poisoned:]:
        newest = load_newest(trial / "checkpoints", print)
        assert newest is not None
        progress, tensors = newest
        tensors = {name: tensor * math.inf if name.endswith("lora_B") else tensor for name, tensor in tensors.items()}
        save_checkpoint(trial / "checkpoints", progress, tensors, keep=1)
    if poisoned == 3:
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
        assert row["held_out_loss"] == pytest.approx(fmean(losses[3 * len(losses) // 4 :]))


@pytest.mark.parametrize(
    ("gains", "rows", "chosen", "told"),  # of the lower and the higher rate over the rule's, nats a token
    [
        ((-0.10, 0.10), 400, 2, "higher ones were not tried"),
        ((0.05, 0.03), 400, 0, "lower ones were not tried"),
        ((-0.10, -0.10), 400, 1, "the rule's rate has the lowest"),
        ((-0.10, 0.001), 400, 1, "no other has a clearly lower"),
        ((-0.10, 0.10), 3, 1, "no other has a clearly lower"),
        ((-0.10, math.nan), 400, 1, "the rule's rate has the lowest"),
    ],
)
def test_the_rule_stands_unless_another_rate_is_clearly_better(
    gains: tuple[float, float], rows: int, chosen: int, told: str
) -> None:
    draw = np.random.default_rng(3)
    weights = draw.integers(1, 30, rows).astype(float)
    hard = draw.normal(2.0, 0.8, rows)  # rows differ far more than rates do
    measured = {
        name: np.stack([weights * (hard - gain + draw.normal(0, 0.2, rows)), weights], axis=1)
        for name, gain in zip(("000-lr=1", "001-lr=2", "002-lr=4"), (gains[0], 0.0, gains[1]), strict=True)
    }
    trials: Any = [SimpleNamespace(name=name, failed=None) for name in measured]
    losses = {name: float(found[:, 0].sum() / weights.sum()) for name, found in measured.items()}
    winner, reason = _winner(trials, measured, losses, "held-out loss")
    assert winner is trials[chosen] and told in reason


def test_another_rate_is_taken_where_the_rule_diverges() -> None:
    trials: Any = [SimpleNamespace(name=str(number), failed=None) for number in range(3)]
    measured = {"0": np.array([[3.0, 1.0]]), "1": np.array([[math.nan, 1.0]]), "2": np.array([[math.nan, 1.0]])}
    winner, reason = _winner(trials, measured, {"0": 3.0, "1": math.nan, "2": math.nan}, "held-out loss")
    assert winner is trials[0] and "diverges" in reason


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 100}, "too few to say anything"),
        ({"warmup": 12}, "12 of them warm-up: too few"),
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
