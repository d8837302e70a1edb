"""Where the documents of a pack begin and end, on the host and on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """`count` documents of `length` tokens each, one after another in `rows` of the pack."""

    rows: slice
    count: int
    length: int


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents end to end: `offsets` are their cumulative lengths from 0 to all tokens, (documents + 1), `table` the
    same as an int32 tensor on the device of the tokens, and `longest` the tokens of the longest document."""

    offsets: list[int]
    table: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> Documents:
        """Documents of these lengths, each at least one token."""
        assert all(length > 0 for length in lengths), f"documents of no tokens: {list(lengths)}"
        offsets = [0, *accumulate(lengths)]
        return cls(offsets, torch.tensor(offsets, dtype=torch.int32, device=device), max(lengths, default=0))

    def lengths(self) -> list[int]:
        return [end - start for start, end in pairwise(self.offsets)]

    def runs(self) -> Iterator[Run]:
        """The documents in order, neighbours of equal length together."""
        start = 0
        for length, documents in groupby(self.lengths()):
            count = sum(1 for _ in documents)
            yield Run(slice(start, start + count * length), count, length)
            start += count * length
