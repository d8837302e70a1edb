"""Rows held out for the before/after report: chosen by content, so that no row is on both sides.

Groups of examples are ranked by a hash of their content and the seed. The choice then does not depend on the order of
the file, and adding rows moves few others from one side to the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

from lorica.data.examples import Example

AUTO_SHARE, AUTO_LEAST, AUTO_MOST_SHARE = 0.02, 32, 0.2


def split_held_out(
    examples: Sequence[Example], held_out: float | str, seed: int
) -> tuple[list[Example], list[Example]]:
    """Splits `examples` into (training, held out), both in the given order.

    Examples with equal tokens and weights, and examples of one row, stay on one side. Training is never emptied.

    Args:
        held_out: the share to hold out, 0 to below 1; or "auto": 2 %, but at least 32 examples and at most 20 %.
        seed: a different seed holds out different rows.

    Raises:
        ValueError: `held_out` is neither.
    """
    groups = _groups(examples)
    room = min(_wanted(len(examples), held_out), len(examples) - 1)
    held: set[int] = set()
    for members in sorted(groups, key=lambda members: _rank(examples, members, seed)):
        if len(held) + len(members) <= room:
            held.update(members)
    training = [example for index, example in enumerate(examples) if index not in held]
    return training, [examples[index] for index in sorted(held)]


def _wanted(count: int, held_out: float | str) -> int:
    if held_out == "auto":
        return min(max(round(AUTO_SHARE * count), AUTO_LEAST), int(AUTO_MOST_SHARE * count))
    if isinstance(held_out, str) or not 0.0 <= held_out < 1.0:
        raise ValueError(f'evaluate.held_out is {held_out!r}; expected "auto" or a share of the rows, 0 to below 1.')
    return max(round(held_out * count), 1) if held_out else 0


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Indices that must stay together: the connected components of "same row" and "same content"."""
    parent = list(range(len(examples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first_with: dict[Hashable, int] = {}
    for index, example in enumerate(examples):
        for key in (example.source, example.fingerprint()):
            parent[root(index)] = root(first_with.setdefault(key, index))
    components: dict[int, list[int]] = {}
    for index in range(len(examples)):
        components.setdefault(root(index), []).append(index)
    return list(components.values())


def _rank(examples: Sequence[Example], members: list[int], seed: int) -> bytes:
    content = min(examples[index].fingerprint() for index in members)
    return hashlib.blake2b(content, digest_size=16, salt=seed.to_bytes(8, "little")).digest()
