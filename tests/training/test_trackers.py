"""Trackers get every line of the metrics, and one that is not installed is refused before anything starts."""

import sys
from pathlib import Path
from typing import Any

import pytest

from lorica.training.run_folder import RunFolder
from lorica.training.trackers import Trackers, check_trackers

FAKE = """
calls = []
class Run:
    def log(self, values, step):
        calls.append((step, values))
    def finish(self):
        calls.append("finished")
def init(**given):
    calls.append(given)
    return Run()
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the library of that name."""
    (tmp_path / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb

    yield wandb
    sys.modules.pop("wandb")


def test_every_line_arrives(wandb: Any, tmp_path: Path) -> None:
    check_trackers(["wandb"])
    with pytest.raises(RuntimeError), Trackers(["wandb"], RunFolder(tmp_path / "r1"), {"train.lr": 0.1}) as trackers:
        trackers.log({"step": 3, "loss": 0.5, "lr": 0.1})
        raise RuntimeError
    start = {"project": "lorica", "name": "r1", "config": {"train.lr": 0.1}}
    assert wandb.calls == [start, (3, {"loss": 0.5, "lr": 0.1}), "finished"]


def test_none_is_none(tmp_path: Path) -> None:
    with Trackers([], RunFolder(tmp_path), {}) as trackers:
        trackers.log({"step": 1, "loss": 0.5})


def test_one_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.training.trackers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'system\.trackers has trackio, .*pip install "lorica\[track\]"'):
        check_trackers(["trackio"])
