"""The run folder: its lines of metrics, and its lock."""

import math
from pathlib import Path

import pytest

from lorica.training.run_folder import RunFolder


def test_metrics_come_back_and_stay_json(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_metrics() == []
    run.append_metrics({"step": 1, "loss": 0.1 + 0.2})
    run.append_metrics({"step": 2, "held_out_loss": math.nan})
    assert run.read_metrics() == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "held_out_loss": None}]


def test_a_last_line_cut_by_a_kill_is_left_out_and_overwritten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": step / 3})
    run.metrics.write_bytes(run.metrics.read_bytes()[:-9])
    assert [record["step"] for record in run.read_metrics()] == [1, 2]
    run.truncate_metrics(1)
    run.append_metrics({"step": 2, "loss": 0.5})
    assert run.metrics.read_text() == '{"step": 1, "loss": 0.3333333333333333}\n{"step": 2, "loss": 0.5}\n'


def test_one_process_a_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run")
    with (
        run.locked(),
        pytest.raises(ValueError, match="another process is training into"),
        RunFolder(run.path).locked(),
    ):
        pass
    with run.locked():
        pass


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot be written .* give another out"), RunFolder(tmp_path / path).locked():
        pass
    assert (tmp_path / "file").read_text() == "mine"
