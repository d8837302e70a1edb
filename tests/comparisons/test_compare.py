"""Comparisons over a tiny base: what is run, what the table says of it, and how it goes on after a stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from transformers import LlamaForCausalLM

from bases import sums, write_base, write_rows
from lorica.cli import run as run_command
from lorica.comparing import compare
from lorica.comparing.compare import METHODS
from lorica.comparing.methods import method_of, rates
from lorica.comparing.runs import RunFailed, in_a_process
from lorica.comparing.terminal import print_comparison
from lorica.config import default_learning_rate
from lorica.evaluation.evaluation import Evaluation
from lorica.run.plan import plan
from lorica.training.interrupt import Interrupted
from lorica.training.run_folder import RunFolder


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(write_base(tmp_path / "base")),
        "data": str(write_rows(tmp_path / "rows.jsonl", sums(60))),
        "lora": {"r": 4, "alpha": 6},
        "train": {"steps": 4, "batch_size": 4},
        "evaluate": {"held_out": 0.2, "samples": 0},
        "system": {"cache": str(tmp_path / "cache"), "device": "cpu"},
    }


class InThisProcess:
    """Runs commands here, which is quicker than a process each, and remembers them. The run numbered `fails` ends with
    `code` before it began."""

    def __init__(self, fails: int = -1, code: int = 1) -> None:
        self.commands: list[list[str]] = []
        self.fails, self.code = fails, code

    def __call__(self, arguments: list[str]) -> int:
        self.commands.append(arguments)
        if len(self.commands) - 1 == self.fails:
            return self.code
        return run_command([*arguments, "--json"])


def test_each_method_at_its_best_rate_with_several_seeds(base: dict[str, Any], tmp_path: Path) -> None:
    command = InThisProcess()
    found = compare(methods=["lora", "full"], seeds=2, out=tmp_path / "out", command=command, **base)
    assert len(command.commands) == 2 * 3 + 2
    rows = {row["name"]: row for row in found.rows}
    for name, row in rows.items():
        losses = list(row["lr_curve"].values())
        expected = default_learning_rate(24, "llama", "full" if name == "full" else "lora")[0]
        assert sorted(map(float, row["lr_curve"])) == pytest.approx([expected / 3, expected, expected * 3], rel=5e-3)
        assert row["settings"]["train.lr"] == pytest.approx(float(min(row["lr_curve"], key=row["lr_curve"].get)))
        assert row["loss_by_seed"]["0"] == min(losses) and len(row["loss_by_seed"]) == 2
        assert row["loss"] == pytest.approx(sum(row["loss_by_seed"].values()) / 2)
        assert row["bytes_stored"] > 0 and row["seconds"] > 0
    assert rows["full"]["share_of_full"] is None and rows["full"]["bytes_stored"] > rows["lora"]["bytes_stored"]
    assert [row["loss"] for row in found.rows] == sorted(row["loss"] for row in found.rows)
    assert json.loads((tmp_path / "out/comparison.json").read_text())["best"]["name"] == found.rows[0]["name"]
    assert "<td>lora</td>" in (tmp_path / "out/comparison.html").read_text()


class InProcesses(InThisProcess):
    """Runs each command in a process of its own: this one holds on to some of what earlier runs took."""

    def __call__(self, arguments: list[str]) -> int:
        self.commands.append(arguments)
        return in_a_process(arguments)


@pytest.mark.slow
def test_what_does_not_fit_is_planned(base: dict[str, Any], tmp_path: Path) -> None:
    """A budget that LoRA just fits in: full fine-tuning has the weights' gradients and moments besides."""
    base["model"] = str(write_base(tmp_path / "wide", hidden_size=256, intermediate_size=6144))
    parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(base["model"]).parameters())
    budget = plan(**base).peak_bytes + 5 * parameters
    base["system"] |= {"memory": f"{budget // 10**6}MB"}
    command = InProcesses()
    found = compare(methods=["full", "lora"], seeds=1, out=tmp_path / "out", command=command, **base)
    assert [(row["name"], row["planned"]) for row in found.rows] == [("lora", False), ("full", True)]
    assert len(command.commands) == 3 and all("/lora-" in str(arguments[-1]) for arguments in command.commands)
    lora, full = found.rows
    assert full["peak_memory_bytes"] > budget and full["loss"] is None and lora["share_of_full"] is None
    assert full["trainable_parameters"] == parameters and full["bytes_stored"] == 4 * parameters
    page = (tmp_path / "out/comparison.html").read_text()
    assert "full (planned)" in page and "does not fit" in page
    with Console(width=200, record=True) as console:
        print_comparison(found.to_dict(), console)
    text = console.export_text()
    assert "planned" in text and "does not fit" in text
    assert json.loads((tmp_path / "out/comparison.json").read_text())["rows"][1]["planned"] is True


@pytest.mark.slow
def test_where_no_method_fits(base: dict[str, Any], tmp_path: Path) -> None:
    base["system"] |= {"memory": "30MB"}
    command = InThisProcess()
    with pytest.raises(ValueError, match=r"none of the methods fits in .*: full at least .*, lora at least"):
        compare(methods=["full", "lora"], seeds=1, out=tmp_path / "none", command=command, **base)
    assert not command.commands


@pytest.mark.slow
def test_the_share_is_of_the_fall_in_loss(base: dict[str, Any], tmp_path: Path) -> None:
    base["train"] = {"steps": 30, "batch_size": 8}
    found = compare(methods=["lora", "full"], seeds=1, out=tmp_path / "out", command=InThisProcess(), **base)
    rows = {row["name"]: row for row in found.rows}
    share = rows["lora"]["share_of_full"]
    fall = {name: row["base_loss"] - row["loss"] for name, row in rows.items()}
    assert share["share"] == pytest.approx(fall["lora"] / fall["full"], rel=1e-6)
    assert share["low"] < share["share"] < share["high"]
    # By hand, over other resamples of the same rows.
    sides = {name: RunFolder(row["runs"][0]) for name, row in rows.items()}
    before = Evaluation.from_dict(json.loads(sides["lora"].before.read_text())).scores
    after = {name: Evaluation.from_dict(json.loads(run.after.read_text())).scores for name, run in sides.items()}
    assert before is not None and after["lora"] is not None and after["full"] is not None
    drawn = np.random.default_rng(7).integers(0, len(before.weights), (1000, len(before.weights)))
    losses = [s.loss_sums[drawn].sum(1) / s.weights[drawn].sum(1) for s in (before, after["lora"], after["full"])]
    low, high = np.quantile((losses[0] - losses[1]) / (losses[0] - losses[2]), [0.025, 0.975])
    assert [share["low"], share["high"]] == pytest.approx([low, high], abs=0.25 * (high - low))


class Diverging(InThisProcess):
    """Runs at the rates in `diverges`, by their place, leave what a run does whose loss is no number."""

    def __init__(self, *diverges: int) -> None:
        super().__init__()
        self.diverges = diverges

    def __call__(self, arguments: list[str]) -> int:
        if len(self.commands) not in self.diverges:
            return super().__call__(arguments)
        self.commands.append(arguments)
        folder = RunFolder(Path(arguments[-1]).with_suffix("")) if arguments[-1].endswith(".yaml") else None
        assert folder is not None
        folder.path.mkdir()
        folder.append_metrics({"step": 3, "loss": float("nan"), "grad_norm": float("inf")})
        return 1


def test_a_rate_that_diverges_is_told_and_not_tried_again(base: dict[str, Any], tmp_path: Path) -> None:
    command = Diverging(0, 2)
    found = compare(methods=["lora", "nf4"], seeds=1, out=tmp_path / "out", command=command, **base)
    row = next(row for row in found.rows if row["name"] == "lora")
    assert [loss is None for loss in row["lr_curve"].values()] == [True, False, True]
    assert row["loss"] == list(row["lr_curve"].values())[1]
    assert (tmp_path / "out/comparison.html").read_text().count(": diverged") == 2
    again = InThisProcess()
    assert compare(resume=tmp_path / "out", command=again).rows == found.rows and not again.commands
    with pytest.raises(ValueError, match="lora diverged at every learning rate"):
        compare(methods=["lora", "nf4"], seeds=1, out=tmp_path / "none", command=Diverging(0, 1, 2), **base)


@pytest.mark.slow
def test_a_run_that_fails_or_is_stopped_and_goes_on(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"lora-lr.*exit code 1.*lorica compare --resume"):
        compare(methods=["lora", "full"], seeds=1, out=tmp_path / "out", command=InThisProcess(2), **base)
    with pytest.raises(Interrupted, match="lorica compare --resume"):
        compare(resume=tmp_path / "out", command=InThisProcess(1, code=130))
    rest = InThisProcess()
    found = compare(resume=tmp_path / "out", command=rest)
    assert len(rest.commands) == 6 - 2 - 1 and len(found.rows) == 2
    again = InThisProcess()
    assert compare(resume=tmp_path / "out", command=again).rows == found.rows and not again.commands


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_hand_with_a_checkpoint(number: int, base: dict[str, Any], tmp_path: Path) -> None:
    """Ctrl-C reaches both processes, SIGTERM the comparison's alone."""
    config, out = tmp_path / "config.json", tmp_path / "out"
    config.write_text(json.dumps(base | {"train": {"steps": 10**5, "batch_size": 4}}), encoding="utf-8")
    arguments = ["compare", str(config), "--methods", "lora,full", "--seeds", "1", "--out", str(out), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lorica", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(out.glob("runs/*/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number and json.loads(printed)["run"] == str(out)
    assert f"lorica compare --resume {out}" in told and "Traceback" not in told
    [run] = (path for path in (out / "runs").iterdir() if path.is_dir())
    assert list((run / "checkpoints").glob("step-*"))
    with RunFolder(run).locked():
        pass  # nobody trains into it any more


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": ["lora"]}, "two methods"),
        ({"methods": ["lora", "lora"]}, "each once"),
        ({"methods": ["lora", "q9_z"]}, "weights"),
        ({"seeds": 0}, "at least 1"),
        ({"overrides": ["train.lr=1e-3"]}, "train.lr is the comparison's"),
        ({"overrides": ["method=full"]}, "method is the comparison's|has no effect"),
    ],
)
def test_comparisons_that_cannot_be(options: dict[str, Any], told: str, base: dict[str, Any], tmp_path: Path) -> None:
    command = InThisProcess()
    with pytest.raises(ValueError, match=told):
        compare(**{"methods": ["lora", "full"], "out": tmp_path / "out", "command": command, **base, **options})
    assert not command.commands and not (tmp_path / "out").exists()


def test_a_folder_that_is_taken_or_holds_none(base: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        compare(methods=["lora", "full"], out=tmp_path / "taken", **base)
    with pytest.raises(ValueError, match="holds no comparison"):
        compare(resume=tmp_path / "taken")


def test_rates_and_methods() -> None:
    assert method_of("q4_k_m").settings == ("model.weights=q4_k_m",) and method_of("lora").settings == ()
    assert rates(2000, "llama", method_of("full")) == [1.67e-05, 5e-05, 0.00015]
    assert set(METHODS) == {"lora", "nf4", "full"}
