"""The low-rank pairs of a saved adapter, with its scale folded in, and a saved adapter made of pairs.

What an adapter adds to a weight is `up @ down`. Every operation here works on that product through r-by-r matrices, so
that nothing of the size of a weight is formed unless a method is defined on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """`down` (r, in) and `up` (out, r), fp64: the adapter adds `up @ down` (out, in), scale included."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight it is added to."""
        return self.up.shape[0], self.down.shape[1]

    def delta(self) -> Tensor:
        return self.up @ self.down

    def times(self, factor: float) -> Pair:
        return Pair(self.down, self.up * factor)

    def dot(self, other: Pair) -> float:
        """The Frobenius inner product of the two products, from r-by-r matrices."""
        return float(((self.up.t() @ other.up) * (self.down @ other.down.t())).sum())

    def norm(self) -> float:
        return max(self.dot(self), 0.0) ** 0.5

    def singular_values(self) -> Tensor:
        return self._decomposed()[1]

    def truncated(self, rank: int) -> Pair:
        """The best pair of `rank` (Eckart and Young 1936); the singular values are shared evenly between both sides."""
        u, s, vt = self._decomposed()
        root = s[:rank].sqrt()
        return Pair(root[:, None] * vt[:rank], u[:, :rank] * root)

    def _decomposed(self) -> tuple[Tensor, Tensor, Tensor]:
        left, right = torch.linalg.qr(self.up), torch.linalg.qr(self.down.t())
        u, s, vt = torch.linalg.svd(left.R @ right.R.t(), full_matrices=False)
        return left.Q @ u, s, vt @ right.Q.t()


def total(pairs: list[Pair]) -> Pair:
    """The sum of their products, exactly: the ranks add up."""
    return reduce(lambda one, other: Pair(torch.cat([one.down, other.down]), torch.cat([one.up, other.up], 1)), pairs)


def from_delta(delta: Tensor, rank: int) -> Pair:
    """The best pair of `rank` for a full matrix (out, in)."""
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    return Pair(root[:, None] * vt[:rank], u[:, :rank] * root)
