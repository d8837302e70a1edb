"""`lorica train` and what looks at its run: report, inspect, doctor."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcomes import REPORT_KEYS, SMALL, TRAIN_KEYS, Cli

from bases import sums, write_rows
from lorica.cli.terminal import TerminalWatcher

PROGRAM = Path(sys.executable).with_name("lorica")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", sums())


def test_model_and_data(cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = cli("train", "--model", tiny_base, "--data", rows, "--out", out, *SMALL, "train.steps=5", "--json")
    assert outcome.code == 0
    assert set(outcome.json) >= TRAIN_KEYS and set(outcome.json["report"]) >= REPORT_KEYS
    assert outcome.json["run"] == str(out) and outcome.json["steps"] == 5
    assert "\x1b" not in outcome.err and "\r" not in outcome.err, "no terminal, no control characters"
    assert "read 40 rows as prompt-completion" in outcome.err and "step 5 of 5: loss" in outcome.err
    origins = json.loads((out / "receipt.json").read_text())["settings"]
    assert {origins[key]["origin"] for key in ("model.path", "data.path", "train.lr")} == {"command line"}


def test_config_file_and_overrides(cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"model: {tiny_base}\ndata: {rows}\nout: {tmp_path / 'run'}\ntrain:\n  steps: 3\n  seed: 4\n")
    outcome = cli("train", path, *SMALL, "train.steps=2")
    assert outcome.code == 0
    assert "before" in outcome.out and "after" in outcome.out
    settings = json.loads((tmp_path / "run" / "receipt.json").read_text())["settings"]
    assert settings["train.steps"] == {"value": 2, "origin": "command line"}
    assert settings["train.seed"] == {"value": 4, "origin": "run.yaml:6"}
    again = cli("train", path, *SMALL)
    assert again.code == 1 and "already holds a run" in again.err


def test_several_data_files_and_no_evaluation(cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    more = write_rows(tmp_path / "more.jsonl", [{"prompt": "a", "completion": "b"}])
    small = [item for item in SMALL if not item.startswith("evaluate.")]
    arguments = ["--model", tiny_base, "--data", rows, "--data", more, "--out", tmp_path / "run", "train.steps=2"]
    outcome = cli("train", *arguments, *small, "evaluate.enabled=false")
    assert outcome.code == 0 and outcome.out.startswith("2 steps, final loss ")
    assert "read 41 rows" in outcome.err
    told = cli("report", tmp_path / "run", "--json")
    assert told.code == 1 and "was not evaluated" in told.json["error"]


def test_a_misspelt_setting_names_the_nearest(cli: Cli, tiny_base: Path, rows: Path) -> None:
    outcome = cli("train", "--model", tiny_base, "--data", rows, "train.learning_rate=1", "lora.rank=3", "--json")
    assert outcome.code == 1
    assert "train.lr" in outcome.json["error"] and "lora.rank" in outcome.json["error"], "all problems at once"


def test_report(cli: Cli, text_run: Path) -> None:
    outcome = cli("report", text_run, "--json")
    assert outcome.code == 0 and set(outcome.json) >= REPORT_KEYS
    assert outcome.json == json.loads((text_run / "report.json").read_text())
    shown = cli("report", text_run)
    assert shown.code == 0 and f"{outcome.json['after']['loss']:.3f}" in shown.out


def test_inspect_a_run_an_adapter_and_a_model(cli: Cli, text_run: Path, tiny_base: Path) -> None:
    run, adapter, model = (cli("inspect", path, "--json").json for path in (text_run, text_run / "adapter", tiny_base))
    assert (run["kind"], adapter["kind"], model["kind"]) == ("run", "adapter", "model")
    assert (run["state"], run["steps"], run["rows"]) == ("finished", 8, {"training": 32, "held_out": 8})
    assert (adapter["r"], adapter["alpha"], len(adapter["modules"])) == (3, 5, 14)
    assert adapter["provenance"]["base"] == run["base"]["base"]
    assert (model["layers"], model["hidden_size"], model["chat_template"]) == (2, 24, True)
    assert "14 modules" in cli("inspect", text_run / "adapter").out
    beside = cli("inspect", text_run, "--intruders", "--json").json["adapter"]
    assert beside["beside"] == str(tiny_base) and all(len(m["cosines"]) == 10 for m in beside["modules"])
    assert "relative norm" in cli("inspect", text_run / "adapter", "--base", tiny_base).out


def test_doctor(cli: Cli) -> None:
    outcome = cli("doctor", "--json")
    assert outcome.code == 0 and outcome.json["gflops"]["fp32"] > 0
    assert {"lorica", "torch", "transformers"} <= set(outcome.json["versions"])
    assert "torch" in cli("doctor").out


def test_stopped_by_a_signal_and_resumed(cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--model", tiny_base, "--data", rows, "--out", out, *SMALL, "train.steps=80", "--json"]
    process = subprocess.Popen(
        [PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (out / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    printed, told = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in told and f"lorica train --resume {out}" in told
    assert json.loads(printed)["run"] == str(out)
    assert len(list((out / "checkpoints").iterdir())) == 1
    assert cli("report", out).err.startswith(f"error: the run in {out} has no report yet: it stands at step")
    assert cli("train", "--resume", out, "train.lr=1").code == 1
    assert cli("train", "--resume", out, "--json").json["steps"] == 80
    assert cli("train", "--resume", out).code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_training(
    number: int, cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal while the base is measured: 128 + its number, and how to go on."""

    def interrupt(_: TerminalWatcher, name: str, done: int, total: int) -> None:
        if name == "held-out rows":
            signal.raise_signal(number)

    monkeypatch.setattr(TerminalWatcher, "stage", interrupt)
    out = tmp_path / "run"
    outcome = cli("train", "--model", tiny_base, "--data", rows, "--out", out, *SMALL, "--json")
    assert outcome.code == 128 + number and outcome.json["run"] == str(out)
    assert f"lorica train --resume {out}" in outcome.err
    assert (out / "config.yaml").exists() and not (out / "before.json").exists()


def test_interrupted_before_there_is_a_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.config.load", lambda *_: signal.raise_signal(signal.SIGINT))
    outcome = cli("train", "--model", "x", "--data", "y")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "interrupted\n")
    assert cli("train", "--model", "x", "--data", "y", "--json").json == {"error": "interrupted"}


def test_what_a_metric_prints_is_no_result(
    cli: Cli, tiny_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "talkative_metric.py"
    module.write_text("def length(prediction, reference, prompt):\n    print('looking')\n    return len(prediction)\n")
    monkeypatch.chdir(tmp_path)
    options = ["--model", tiny_base, "--data", rows, "--out", tmp_path / "run", *SMALL, "train.steps=2"]
    outcome = cli("train", *options, "evaluate.metric=talkative_metric:length", "--json")
    assert outcome.json["steps"] == 2 and "looking" in outcome.err
