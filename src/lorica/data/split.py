"""Rows held out for the before/after report: chosen by content, so that no row is on both sides.

Groups of examples are ranked by a hash of their content and the seed. The choice then does not depend on the order of
the file, and adding rows moves few others from one side to the other.
"""

from __future__ import annotations

import hashlib

import numpy as np

from lorica.data.store import StoredExamples

AUTO_SHARE, AUTO_LEAST, AUTO_MOST, AUTO_MOST_SHARE = 0.02, 32, 2048, 0.2


def split_held_out(examples: StoredExamples, held_out: float | str, seed: int) -> tuple[StoredExamples, StoredExamples]:
    """Splits `examples` into (training, held out), both in the given order.

    Examples with equal tokens and weights, and examples of one row, stay on one side. Training is never emptied.

    Args:
        held_out: the share to hold out, 0 to below 1; or "auto": 2 %, but at least 32 examples, at most 2,048 (which
            tell a loss well enough, and are measured twice) and at most 20 %.
        seed: a different seed holds out different rows.

    Raises:
        ValueError: `held_out` is neither.
    """
    groups = _groups(examples)
    room = min(_wanted(len(examples), held_out), len(examples) - 1)
    sizes = np.bincount(groups)
    held = np.zeros(len(examples), dtype=bool)
    if room > 0:
        chosen = np.zeros(len(sizes), dtype=bool)
        for group in _ranked(examples.fingerprints, groups, len(sizes), seed):
            if sizes[group] <= room:
                chosen[group] = True
                room -= sizes[group]
            if room == 0:
                break
        held = chosen[groups]
    return examples.take(np.flatnonzero(~held)), examples.take(np.flatnonzero(held))


def _wanted(count: int, held_out: float | str) -> int:
    if held_out == "auto":
        return min(max(round(AUTO_SHARE * count), AUTO_LEAST), AUTO_MOST, int(AUTO_MOST_SHARE * count))
    if isinstance(held_out, str) or not 0.0 <= held_out < 1.0:
        raise ValueError(f'evaluate.held_out is {held_out!r}; expected "auto" or a share of the rows, 0 to below 1.')
    return max(round(held_out * count), 1) if held_out else 0


def _groups(examples: StoredExamples) -> np.ndarray:
    """For each example the number of the group that must stay together, (examples,) int64.

    Groups are the connected components of "same row" and "same content": the least index of a component spreads to all
    its members, along one relation after the other, until nothing changes.
    """
    relations = [np.unique(key, return_inverse=True)[1] for key in (examples.rows, examples.contents)]
    least = np.arange(len(examples))
    while True:
        before = least
        for relation in relations:
            lowest = np.full(len(least), len(least))
            np.minimum.at(lowest, relation, least)
            least = lowest[relation]
        if np.array_equal(before, least):
            return np.unique(least, return_inverse=True)[1]


def _ranked(fingerprints: np.ndarray, groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The groups in the order of a hash of the seed and of the least fingerprint in each, (count,) int64."""
    salt = seed.to_bytes(8, "little")
    order = np.lexsort((*_as_keys(fingerprints), groups))
    first = order[np.flatnonzero(np.diff(groups[order], prepend=-1))]
    ranks = np.empty((count, 16), dtype=np.uint8)
    for group, example in enumerate(first):
        digest = hashlib.blake2b(fingerprints[example].tobytes(), digest_size=16, salt=salt).digest()
        ranks[group] = np.frombuffer(digest, np.uint8)
    return np.lexsort(_as_keys(ranks))


def _as_keys(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys for `np.lexsort` (the last is the first to sort by) that order (n, 16) uint8 as bytes are ordered."""
    high, low = np.ascontiguousarray(digests).view(">u8").T
    return low, high
