"""Which trials can share a pass over the base: those that differ only in what each lane has for itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lorica.config import Resolved, result_settings
from lorica.lora.lane import OWN
from lorica.sweeping.trial import TrialState

# What an optimiser of its own gives a lane; the batch size and the number of steps are the pass's.
OWN_TRAINING = (
    "lr",
    "seed",
    "schedule",
    "warmup",
    "weight_decay",
    "betas",
    "eps",
    "max_grad_norm",
    "loraplus_lr_ratio",
)


def shared_settings(resolved: Resolved) -> str:
    """What trials of one pass have in common, as text that is equal for those that do."""
    settings = result_settings(resolved.config)
    for section, own in (("lora", OWN), ("train", OWN_TRAINING)):
        settings[section] = {key: value for key, value in settings[section].items() if key not in own}
    return json.dumps(settings, sort_keys=True)


def grouped(trials: Mapping[str, TrialState], most: int) -> list[list[TrialState]]:
    """The trials that go together, at most `most` at a time, in their order: those with the same shared settings that
    stand at the same step (a process that was killed may have saved some of a pass and not the others)."""
    groups: dict[tuple[str, int], list[TrialState]] = {}
    for trial in trials.values():
        groups.setdefault((shared_settings(trial.resolved), trial.progress.step), []).append(trial)
    return [part for group in groups.values() for part in _evenly(group, most)]


def _evenly(names: Sequence[TrialState], most: int) -> list[list[TrialState]]:
    """As few parts as there have to be, of nearly equal size."""
    parts = -(-len(names) // most)
    edges = [round(len(names) * i / parts) for i in range(parts + 1)]
    return [list(names[start:end]) for start, end in pairwise(edges)]
