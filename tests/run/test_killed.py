"""Killed at any moment and resumed, a run ends with the same bytes."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same_run
from killed import finish, kill_after, start

from lorica.training.run_folder import RunFolder

Settings = Callable[..., dict[str, Any]]
SMALL = {
    "train": {"steps": 4},
    "system": {"checkpoint_every": 2, "keep_checkpoints": 1},
    "lora": {"target_modules": ["q_proj"]},
}

AT_A_CHECKPOINT = 19


def killed_and_resumed(settings: Settings, name: str, number: int) -> bool:
    """A run killed before its change `number`, then resumed to its end; whether there was such a change."""
    values = settings(name, **SMALL)
    code = finish(values, kill_before=number)
    assert code in (0, -signal.SIGKILL)
    if code == 0:
        return False
    assert finish(values) == 0, f"killed before change {number}"
    return True


@pytest.mark.soak
def test_killed_before_every_change_of_a_file(settings: Settings) -> None:
    whole = settings("whole", **SMALL)
    assert finish(whole) == 0
    number = 1
    while killed_and_resumed(settings, f"cut{number}", number):
        assert_same_run(settings(f"cut{number}")["out"], whole["out"])
        number += 1
    assert number > 30


def test_killed_while_a_checkpoint_is_written(settings: Settings) -> None:
    """One of the moments of the test above, cheap enough for every day."""
    whole, values = settings("whole", **SMALL), settings("cut", **SMALL)
    assert finish(whole) == 0
    assert finish(values, kill_before=AT_A_CHECKPOINT) == -signal.SIGKILL
    assert list((Path(values["out"]) / "checkpoints").glob(".step-*.tmp"))
    assert finish(values) == 0
    assert_same_run(values["out"], whole["out"])


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["lora", "full", "dropout and early stopping"])
def test_killed_at_twenty_random_moments(settings: Settings, kind: str) -> None:
    options: dict[str, Any] = {
        "lora": {},
        "full": {"method": "full", "lora": None},
        "dropout and early stopping": {
            "lora": {"dropout": 0.1},
            "evaluate": {"every": 10, "held_out": "unlike"},
            "train": {"early_stopping": 9},
        },
    }[kind]
    options["train"] = {"steps": 150, "lr": 0.003} | options.get("train", {})
    options["system"] = {"checkpoint_every": 3}
    whole = settings("whole", **options)
    started = time.monotonic()
    assert finish(whole) == 0
    seconds = time.monotonic() - started
    moments = random.Random(5)
    kills = attempts = 0
    while kills < 20:
        values = settings(f"cut{attempts}", **options)
        # Between a tenth of a whole run and a third: most kills fall into training, and all of them together end it.
        # A run that has its report is finished, though its process may be killed before it ends; it cannot be resumed.
        while kill_after(values, seconds * moments.uniform(0.1, 0.35)):
            kills += 1
            if RunFolder(values["out"]).report.is_file():
                break
        assert_same_run(values["out"], whole["out"])
        attempts += 1


def test_killed_once_in_training(settings: Settings) -> None:
    options = {"train": {"steps": 40}, "system": {"checkpoint_every": 3}}
    whole, values = settings("whole", **options), settings("cut", **options)
    assert finish(whole) == 0
    process = start(values)
    metrics = Path(values["out"]) / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 8:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert finish(values) == 0
    assert_same_run(values["out"], whole["out"])


def test_two_processes_cannot_train_into_one_folder(settings: Settings) -> None:
    import lorica

    values = settings(train={"steps": 2000})
    process = start(values)
    try:
        while not (Path(values["out"]) / "metrics.jsonl").exists():
            time.sleep(0.01)
        with pytest.raises(ValueError, match="another process is training into"):
            lorica.train(resume=values["out"])
        with pytest.raises(ValueError, match="already holds a run"):
            lorica.train(**values)
    finally:
        process.kill()
        process.join()
