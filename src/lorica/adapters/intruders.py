"""Intruder dimensions (Shuttleworth et al. 2024, https://arxiv.org/abs/2410.21228): leading left singular vectors of a
fine-tuned weight that are unlike every one of the base's. Adapters of low rank and high learning rate have them, and
with them models forget more.

The merged weight is never decomposed. In the base's own singular basis its Gram matrix is a diagonal and a part of rank
2r, whose leading eigenvectors are found by products with that alone; the base's is decomposed, on its shorter side.
"""

import torch
from torch import Tensor

LEADING, THRESHOLD = 10, 0.5  # singular vectors looked at, and the cosine below which one is an intruder
TOLERANCE = 1e-11  # of an eigenvector's residual, relative to the largest eigenvalue


def highest_cosines(weight: Tensor, down: Tensor, up: Tensor, count: int = LEADING) -> Tensor:
    """For the `count` leading left singular vectors of `weight + up @ down`, the highest |cosine| to any left singular
    vector of `weight` (out, in). `down` (r, in), `up` (out, r) with its scale. Returns (count,) fp64, the first first;
    fewer where the weight has fewer."""
    weight, down, up = weight.double(), down.double(), up.double()
    r = len(down)
    if weight.shape[0] <= weight.shape[1]:
        diagonal, basis = torch.linalg.eigh(weight @ weight.t())
        sides = basis.t() @ torch.cat([up, weight @ down.t()], 1)
        _, vectors = leading_of_update(diagonal, sides, _middle(down @ down.t()), count)
        return vectors.abs().max(0).values
    diagonal, basis = torch.linalg.eigh(weight.t() @ weight)
    sides = basis.t() @ torch.cat([down.t(), weight.t() @ up], 1)
    values, vectors = leading_of_update(diagonal, sides, _middle(up.t() @ up), count)
    # These are right vectors z; the left one is (W + B A) z over its length, seen here along the base's left vectors.
    singular = diagonal.clamp_min(0).sqrt()[:, None]
    along = torch.where(singular > 1e-7 * singular.max(), sides[:, r:] / singular, 0.0)
    left = singular * vectors + along @ (sides[:, :r].t() @ vectors)
    return (left / values.clamp_min(1e-300).sqrt()).abs().max(0).values


def highest_cosines_of(weight: Tensor, merged: Tensor, count: int = LEADING) -> Tensor:
    """The same by two whole decompositions, for a `merged` weight that is not the base's and a low-rank part (DoRA)."""
    base, tuned = (torch.linalg.svd(matrix.double(), full_matrices=False).U for matrix in (weight, merged))
    return (base.t() @ tuned[:, :count]).abs().max(0).values


def _middle(square: Tensor) -> Tensor:
    """[[square, 1], [1, 0]], with which X Y' + Y X' + X square X' is [X Y] times it times [X Y]'."""
    one = torch.eye(len(square), dtype=square.dtype, device=square.device)
    return torch.cat([torch.cat([square, one], 1), torch.cat([one, torch.zeros_like(one)], 1)])


def leading_of_update(diagonal: Tensor, sides: Tensor, middle: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (count,) and eigenvectors (n, count), the largest first, of diag(diagonal) + sides middle sides^T.
    `diagonal` (n,) ascending, `sides` (n, m), `middle` (m, m) symmetric.

    A block Krylov method: the largest of the diagonal's own eigenvectors and the sides, and what the diagonal makes of
    the sides, until the residuals vanish, at the latest when they span everything.
    """
    n, m = sides.shape
    count, own = min(count, n), min(n, 2 * count + m)
    unit = torch.zeros(n, own, dtype=sides.dtype, device=sides.device)
    unit[torch.arange(n - own, n), torch.arange(own)] = 1.0
    basis = torch.linalg.qr(torch.cat([unit, sides], 1)).Q[:, : min(n, own + m)]
    while True:
        image = diagonal[:, None] * basis + sides @ (middle @ (sides.t() @ basis))
        values, small = torch.linalg.eigh(basis.t() @ image)
        values, small = values[-count:].flip(0), small[:, -count:].flip(1)
        vectors = basis @ small
        residual = (image @ small - vectors * values).norm(dim=0).max()
        if residual <= TOLERANCE * values[0].abs() or basis.shape[1] == n:
            return values, vectors
        newest = diagonal[:, None] * basis[:, -m:]
        basis = torch.linalg.qr(torch.cat([basis, newest], 1)).Q[:, : min(n, basis.shape[1] + m)]
