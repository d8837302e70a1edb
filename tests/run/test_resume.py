"""A run that was stopped and resumed is the run that was not, and what cannot be resumed says why."""

import csv
import json
import shutil
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_run, metrics
from safetensors.torch import load_file, save_file

import lorica
from bases import sums, write_base, write_rows
from lorica.run import Watcher
from lorica.training.interrupt import Interrupted

Settings = Callable[..., dict[str, Any]]

KINDS: dict[str, dict[str, Any]] = {
    "dropout": {"lora": {"dropout": 0.2}},
    "loraplus": {"train": {"loraplus_lr_ratio": 8.0}},
    "pissa": {"lora": {"init_lora_weights": "pissa"}},
    "dora": {"lora": {"use_dora": True}},
    "eva": {"lora": {"init_lora_weights": "eva"}},
    "token rows": {
        "lora": {"trainable_token_indices": [7, 3], "modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}
    },
    "full": {"method": "full", "lora": None},
    "early stopping": {
        "train": {"lr": 0.03, "schedule": "constant", "steps": 30, "early_stopping": 2},
        "evaluate": {"every": 1, "held_out": "unlike"},
    },
}


class StopAt(Watcher):
    """Sends this process a signal at a training step, or in a stage before or after training."""

    def __init__(self, step: int | None = None, stage: str | None = None, number: int = signal.SIGINT) -> None:
        self.step, self.name, self.number = step, stage, number
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def stage(self, name: str, done: int, total: int) -> None:
        if name == self.name:
            signal.raise_signal(self.number)

    def record(self, record: dict[str, Any], total_steps: int) -> None:
        if record["step"] == self.step and "loss" in record:
            signal.raise_signal(self.number)


def stopped(values: dict[str, Any], step: int | None = 3, **options: Any) -> Path:
    with pytest.raises(Interrupted) as raised:
        lorica.train(watcher=StopAt(step, **options), **values)
    assert raised.value.step == step and f"lorica train --resume {values['out']}" in str(raised.value)
    return Path(values["out"])


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_is_uninterrupted(settings: Settings, kind: str) -> None:
    whole = lorica.train(**settings("whole", **KINDS[kind]))
    run = stopped(settings("cut", **KINDS[kind]), number=signal.SIGTERM)
    assert not (run / "report.json").exists()
    resumed = lorica.train(resume=run)
    assert_same_run(run, whole.run)
    assert resumed.steps == whole.steps and resumed.final_loss == whole.final_loss
    assert resumed.report is not None and whole.report is not None
    for part in ("before", "after", "intervals", "samples"):
        assert resumed.report[part] == whole.report[part]
    resumed.report["settings"].pop("out"), whole.report["settings"].pop("out")
    assert resumed.report["settings"] == whole.report["settings"], "with the origins of the first start"


def test_stopped_in_the_evaluation_before_training(settings: Settings) -> None:
    whole = lorica.train(**settings("whole"))
    run = stopped(settings("cut"), step=None, stage="held-out rows")
    assert (run / "config.yaml").exists() and not (run / "before.json").exists()
    lorica.train(resume=run)
    assert_same_run(run, whole.run)


def test_stopped_in_the_evaluation_after_training(settings: Settings) -> None:
    whole = lorica.train(**settings("whole"))
    values = settings("cut")
    run = stopped(values, step=8)
    with pytest.raises(Interrupted) as raised:
        lorica.train(resume=run, watcher=StopAt(stage="held-out rows"))
    assert raised.value.step is None
    lorica.train(resume=run)
    assert_same_run(run, whole.run)


def test_killed_between_receipt_and_config_starts_afresh(settings: Settings) -> None:
    values = settings("cut")
    run = Path(values["out"])
    run.mkdir()
    (run / "receipt.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no run to resume"):
        lorica.train(resume=run)
    lorica.train(**values)
    assert_same_run(run, lorica.train(**settings("whole")).run)


def test_damaged_newest_checkpoint_falls_back(settings: Settings) -> None:
    whole = lorica.train(**settings("whole"))
    run = stopped(settings("cut", system={"checkpoint_every": 1}), step=5)
    tensors = run / "checkpoints" / "step-00000005" / "state.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-7] ^= 4
    tensors.write_bytes(bytes(content))
    watcher = StopAt()
    lorica.train(resume=run, watcher=watcher)
    assert any("step-00000005 is damaged" in notice for notice in watcher.notices)
    assert_same_run(run, whole.run)


def test_all_checkpoints_damaged_starts_over(settings: Settings) -> None:
    whole = lorica.train(**settings("whole"))
    run = stopped(settings("cut", system={"checkpoint_every": 1}), step=5)
    for state in (run / "checkpoints").glob("*/state.json"):
        state.unlink()
    watcher = StopAt()
    lorica.train(resume=run, watcher=watcher)
    assert any("starts over" in notice for notice in watcher.notices)
    assert_same_run(run, whole.run)


def test_how_it_is_computed_may_change_on_resume(settings: Settings) -> None:
    whole = lorica.train(**settings("whole"))
    run = stopped(settings("cut"))
    lorica.train(resume=run, overrides=["system.tokens_per_microbatch=1", "system.keep_checkpoints=1"])
    ours, theirs = metrics(run), metrics(whole.run)
    assert [record["loss"] for record in ours] == pytest.approx([record["loss"] for record in theirs], abs=1e-4)


def test_other_versions_are_told(settings: Settings) -> None:
    run = stopped(settings())
    receipt = json.loads((run / "receipt.json").read_text())
    receipt["versions"]["torch"] = "2.0.1"
    (run / "receipt.json").write_text(json.dumps(receipt))
    watcher = StopAt()
    lorica.train(resume=run, watcher=watcher)
    [told] = [notice for notice in watcher.notices if "another machine or version" in notice]
    assert "torch 2.0.1 -> 2" in told and "python" not in told


def test_the_folder_may_have_moved(settings: Settings, tmp_path: Path) -> None:
    whole = lorica.train(**settings("whole"))
    run = stopped(settings("cut")).rename(tmp_path / "elsewhere")
    lorica.train(resume=run)
    assert_same_run(run, whole.run)


def test_a_finished_run_is_refused(settings: Settings) -> None:
    run = lorica.train(**settings()).run
    with pytest.raises(ValueError, match=r"is finished; see it with: lorica inspect"):
        lorica.train(resume=run)


@pytest.mark.parametrize("what", ["absent", "empty", "rows.jsonl"])
def test_a_folder_that_is_no_run_is_refused(rows: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="holds no run to resume"):
        lorica.train(resume=tmp_path / what)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_run_into_the_folder_is_refused(settings: Settings) -> None:
    run = stopped(settings())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"already holds a run\. Continue it with --resume"):
        lorica.train(**settings())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def _change_data(run: Path, base: Path, rows: Path) -> None:
    write_rows(rows, [*sums()[:-1], {"prompt": "other", "completion": "row"}])


def _change_base(run: Path, base: Path, rows: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] = torch.nextafter(tensors["model.norm.weight"], torch.tensor(9.0))
    save_file(tensors, base / "model.safetensors", {"format": "pt"})


def _change_tokenizer(run: Path, base: Path, rows: Path) -> None:
    path = base / "tokenizer.json"
    rules = json.loads(path.read_text(encoding="utf-8"))
    rules["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(rules), encoding="utf-8")


def _change_config(run: Path, base: Path, rows: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("batch_size: 4", "batch_size: 5"))


def _change_held_out(run: Path, base: Path, rows: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("held_out: 0.2", "held_out: 0.4"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_change_data, "the data is not what"),
        (_change_base, "the base model is not what"),
        (_change_tokenizer, "the base model is not what"),
        (_change_config, "config.yaml is not what"),
        (_change_held_out, "the data is not what"),
    ],
)
def test_what_a_run_was_made_of_must_not_change(
    settings: Settings,
    tiny_base: Path,
    tmp_path: Path,
    rows: Path,
    change: Callable[[Path, Path, Path], None],
    told: str,
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    run = stopped(settings(model=str(base)))
    before = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    change(run, base, rows)
    with pytest.raises(ValueError, match=told):
        lorica.train(resume=run)
    assert {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("given", [{"overrides": ["train.lr=1e-4"]}, {"model": "x"}, {"config": "x.yaml"}])
def test_a_resumed_run_keeps_its_configuration(settings: Settings, given: dict[str, Any]) -> None:
    run = stopped(settings())
    with pytest.raises(ValueError, match="keeps its own configuration"):
        lorica.train(resume=run, **given)


def test_a_damaged_receipt_is_told(settings: Settings) -> None:
    run = stopped(settings())
    (run / "receipt.json").write_text("{")
    with pytest.raises(ValueError, match=r"receipt\.json is not valid JSON"):
        lorica.train(resume=run)


def test_other_base_in_the_place_of_the_run_s(settings: Settings, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    run = stopped(settings(model=str(base)))
    shutil.rmtree(base)
    with pytest.raises(ValueError, match="does not exist"):
        lorica.train(resume=run)
    write_base(base, seed=1)
    with pytest.raises(ValueError, match="the base model is not what"):
        lorica.train(resume=run)
    shutil.rmtree(base)
    write_base(base)
    lorica.train(resume=run)
    assert json.loads((run / "report.json").read_text())["steps"] == 8


@pytest.mark.slow
def test_real_input(shared: Path, tmp_path: Path) -> None:
    """A pretrained model on the start of a real data set, with the metrics and the general text, stopped twice."""
    with open(shared / "data" / "e2e_nlg" / "trainset.csv", encoding="utf-8", newline="") as file:
        pairs = [{"prompt": f"{row['mr']}\n", "completion": row["ref"]} for row in islice(csv.DictReader(file), 240)]
    rows = write_rows(tmp_path / "rows.jsonl", pairs)
    values = {
        "model": str(shared / "models" / "stories260K" / "hf"),
        "data": str(rows),
        "lora": {"r": 8, "dropout": 0.05},
        "train": {"steps": 12, "batch_size": 8},
        "evaluate": {"metric": ["bleu", "exact_match"], "generate_rows": 10, "max_new_tokens": 40, "every": 5},
        "system": {"threads": 1},
    }
    whole = lorica.train(**values, out=str(tmp_path / "whole"))
    run = stopped(values | {"out": str(tmp_path / "cut")}, step=4)
    with pytest.raises(Interrupted):
        lorica.train(resume=run, watcher=StopAt(step=9))
    resumed = lorica.train(resume=run)
    assert_same_run(run, whole.run)
    assert resumed.report is not None and whole.report is not None
    assert resumed.report["after"] == whole.report["after"]
    assert whole.report["after"]["loss"] < whole.report["before"]["loss"]
