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
    room = min(_wanted(len(examples), held_out), len(examples) - 1)
    if room <= 0:
        return examples, examples[:0]
    groups = _groups(examples)
    sizes = np.bincount(groups)
    held = np.zeros(len(sizes), dtype=bool)
    for group in _ranked(examples, groups, len(sizes), seed):
        if sizes[group] <= room:
            held[group] = True
            room -= sizes[group]
        if room == 0:
            break
    return examples.take(np.flatnonzero(~held[groups])), examples.take(np.flatnonzero(held[groups]))


def _wanted(count: int, held_out: float | str) -> int:
    if held_out == "auto":
        return min(max(round(AUTO_SHARE * count), AUTO_LEAST), AUTO_MOST, int(AUTO_MOST_SHARE * count))
    if isinstance(held_out, str) or not 0.0 <= held_out < 1.0:
        raise ValueError(f'evaluate.held_out is {held_out!r}; expected "auto" or a share of the rows, 0 to below 1.')
    return max(round(held_out * count), 1) if held_out else 0


def _groups(examples: StoredExamples) -> np.ndarray:
    """For each example the number of the group that must stay together, (examples,) uint32.

    Groups are the connected components of "same row" and "same content": the least index of a component spreads to all
    its members, along one relation after the other, until nothing changes.
    """
    relations = [_numbered(key) for key in (examples.rows, examples.contents)]
    least = np.arange(len(examples), dtype=np.uint32)
    while True:
        before = least
        for relation in relations:
            lowest = np.full(len(least), len(least), dtype=np.uint32)
            np.minimum.at(lowest, relation, least)
            least = lowest[relation]
        if np.array_equal(before, least):
            return _numbered(least)


def _numbered(keys: np.ndarray) -> np.ndarray:
    """For each key the number of its value, (keys,) uint32."""
    order = np.argsort(keys, kind="stable")
    numbers = np.empty(len(keys), dtype=np.uint32)
    numbers[order] = np.cumsum(np.concatenate(([False], keys[order][1:] != keys[order][:-1])), dtype=np.uint32)
    return numbers


def _ranked(examples: StoredExamples, groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The groups in the order of a hash of the seed and of the least fingerprint in each, (count,) int64."""
    salt, fingerprints = seed.to_bytes(8, "little"), examples.fingerprints
    order = np.lexsort((fingerprints.view(">u8")[:, 0], groups))  # as bytes are ordered; 64 bits are enough
    ranks = np.empty(count, dtype=">u8")
    for group, example in enumerate(order[np.flatnonzero(np.diff(groups[order], prepend=-1))]):
        digest = hashlib.blake2b(fingerprints[example].tobytes(), digest_size=16, salt=salt).digest()
        ranks[group] = int.from_bytes(digest[:8], "big")
    return np.argsort(ranks, kind="stable")
