"""Checkpoints a run resumes from bit for bit: whole, checksummed, the newest few kept.

A checkpoint is a folder `checkpoints/step-00000120` with `state.safetensors` (trained tensors, optimiser moments, the
best weights so far) and `state.json` (the step, counters, the SHA-256 of the tensors). The folder is written aside,
flushed and renamed, so one that exists is whole; one that was damaged later is recognised by its checksum and the one
before is used. No random state is kept because none is used: order and dropout are functions of the seed and the step.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lorica.files import sha256, sync_folder, write_json, write_safetensors

_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass
class Progress:
    """Where a run stands after `step` optimiser steps. `seconds` and `tokens` are spent in training steps only."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    last_loss: float | None = None
    best_held_out_loss: float | None = None
    evaluations_without_improvement: int = 0


def save_checkpoint(folder: Path, progress: Progress, tensors: dict[str, Tensor], keep: int) -> Path:
    """Write the checkpoint of `progress.step` under `folder` and drop all but the newest `keep`.

    Raises OSError (disk full, no permission) with the older checkpoints intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{progress.step:08d}"
    aside = folder / f".{target.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        digest = write_safetensors(aside / _TENSORS, tensors)
        write_json(aside / _STATE, {"progress": asdict(progress), "sha256": digest})
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_newest(folder: Path, notice: Callable[[str], None]) -> tuple[Progress, dict[str, Tensor]] | None:
    """The newest checkpoint that is whole, or None if there is none. Damaged ones are told to `notice` and passed
    over."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return _read(path)
        except (ValueError, OSError, KeyError, TypeError) as error:
            notice(f"checkpoint {path.name} is damaged ({error}); falling back to the one before")
    return None


def _read(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    found = sha256(path / _TENSORS)
    if found != state["sha256"]:
        raise ValueError(f"{_TENSORS} hashes to {found[:12]}, expected {state['sha256'][:12]}")
    return Progress(**state["progress"]), load_file(path / _TENSORS)
