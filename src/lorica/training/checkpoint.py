"""Checkpoints a run resumes from bit for bit: whole, checksummed, the newest few kept.

A checkpoint is a folder `checkpoints/step-00000120` with `state.safetensors` (trained tensors, optimiser moments, the
best weights so far) and `state.json` (the step, counters, the SHA-256 of both). The folder is written aside,
flushed and renamed, so one that exists is whole; one that was damaged later is recognised by its checksums and the one
before is used. No random state is kept because none is used: order and dropout are functions of the seed and the step.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lorica.files import hash_json, sha256, sync_folder, write_json, write_safetensors

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


def join_parts(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What a checkpoint holds, from its parts: "PART/NAME"."""
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def split_parts(tensors: Mapping[str, Tensor]) -> defaultdict[str, dict[str, Tensor]]:
    """What `join_parts` joined; a part that is not there is empty."""
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    return parts


def save_checkpoint(folder: Path, progress: Progress, tensors: dict[str, Tensor], keep: int) -> Path:
    """Write the checkpoint of `progress.step` under `folder` and drop the earlier ones but for the newest `keep`.

    Raises OSError (disk full, no permission) with the older checkpoints intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{progress.step:08d}"
    for left_by_a_kill in folder.glob(".step-*.tmp"):
        shutil.rmtree(left_by_a_kill)
    aside = folder / f".{target.name}.tmp"
    aside.mkdir()
    try:
        values = asdict(progress)
        hashes = {"tensors": write_safetensors(aside / _TENSORS, tensors), "progress": hash_json(values)}
        write_json(aside / _STATE, {"progress": values, "sha256": hashes})
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(folder)
    # Later ones can only be damaged: the run fell back from them, and they must not push out a whole one.
    for old in [path for path in list_checkpoints(folder) if path.name <= target.name][:-keep]:
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
            reason = f"{type(error).__name__}: {error}"
            notice(f"checkpoint {path.name} is damaged ({reason}); falling back to the one before")
    if list_checkpoints(folder):
        notice(f"no checkpoint in {folder} is whole; the run starts over from its first step")
    return None


def _read(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    found = {"tensors": sha256(path / _TENSORS), "progress": hash_json(state["progress"])}
    if state["sha256"] != found:
        raise ValueError("its content is not what its checksums say")
    return Progress(**state["progress"]), load_file(path / _TENSORS)
