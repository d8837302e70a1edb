"""Checkpoints: whole or passed over, the newest kept, and what a kill or a full disk leaves behind."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorica.training import checkpoint
from lorica.training.checkpoint import Progress, list_checkpoints, load_newest, save_checkpoint


def save(folder: Path, step: int, keep: int = 3) -> Path:
    tensors = {
        "trained/a": torch.full((2, 3), float(step)),
        "step/a": torch.tensor(float(step)),
        "b": torch.ones(2).bfloat16(),
    }
    return save_checkpoint(folder, Progress(step, 0.1 * step, 10 * step, 1 / (step + 1), None, 2), tensors, keep)


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found = load_newest(tmp_path, pytest.fail)
    assert found is not None
    progress, tensors = found
    assert progress == Progress(7, 0.1 * 7, 70, 0.125, None, 2)
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()} == {
        "trained/a": (torch.float32, [[7.0] * 3] * 2),
        "step/a": (torch.float32, 7.0),
        "b": (torch.bfloat16, [1.0, 1.0]),
    }


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 100):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000030", "step-00000100"]
    save(tmp_path, 101, keep=1)
    assert names(tmp_path) == ["step-00000101"]


def truncate(path: Path) -> None:
    tensors = path / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-5])


def flip(name: str, at: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[at] ^= 1
        (path / name).write_bytes(bytes(content))

    return damage


def wrong_step(path: Path) -> None:
    state = path / "state.json"
    state.write_text(state.read_text().replace('"step": 2', '"step": 3'))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": truncate,
    "a bit of the tensors": flip("state.safetensors", -3),
    "a bit of the header": flip("state.safetensors", 12),
    "a changed counter": wrong_step,
    "no tensors": lambda path: (path / "state.safetensors").unlink(),
    "no state": lambda path: (path / "state.json").unlink(),
    "empty state": lambda path: (path / "state.json").write_text(""),
    "other json": lambda path: (path / "state.json").write_text("[1]"),
    "not utf-8": lambda path: (path / "state.json").write_bytes(b"\xff{}"),
    "nothing in it": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_newest_falls_back_and_says_so(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    told: list[str] = []
    found = load_newest(tmp_path, told.append)
    assert found is not None and found[0].step == 1
    assert len(told) == 1 and "step-00000002 is damaged" in told[0] and "falling back" in told[0]


def test_all_damaged_starts_over_and_says_so(tmp_path: Path) -> None:
    for step in (1, 2):
        truncate(save(tmp_path, step))
    told: list[str] = []
    assert load_newest(tmp_path, told.append) is None
    assert len(told) == 3 and "starts over" in told[-1]


def test_none_is_nothing_to_tell(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent", pytest.fail) is None


def test_a_damaged_later_one_never_pushes_out_a_whole_one(tmp_path: Path) -> None:
    save(tmp_path, 10)
    truncate(save(tmp_path, 20))
    for step in (11, 12):
        save(tmp_path, step, keep=1)
    found = load_newest(tmp_path, lambda text: None)
    assert found is not None and found[0].step == 12
    save(tmp_path, 20, keep=1)
    assert names(tmp_path) == ["step-00000020"]
    assert load_newest(tmp_path, pytest.fail) is not None


@pytest.mark.parametrize("fails", ["write_safetensors", "write_json"])
def test_a_failed_save_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    save(tmp_path, 1, keep=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, fails, full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = load_newest(tmp_path, pytest.fail)
    assert found is not None and found[0].step == 1


def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002.tmp")
    assert names(tmp_path) == ["step-00000001"]
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
