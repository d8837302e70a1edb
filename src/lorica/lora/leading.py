"""The leading singular directions of a matrix: exactly, from the products of its shorter side, or nearly and fast."""

import torch
from torch import Tensor


def leading_directions(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `rank` left directions (rows, rank), singular values (rank,) and right directions (rank, columns) of
    `matrix` (rows, columns), in fp64; fewer where a side is shorter than `rank`.

    The eigenvectors of `M M^T` (or `M^T M`) cost a fraction of a full decomposition of a wide or tall matrix, and in
    fp64 lose only values below 1e-8 of the first. A direction of value zero has no other side, which is then zero.
    """
    matrix = matrix.to("cpu" if matrix.device.type == "mps" else matrix.device, torch.float64)  # MPS has no fp64
    wide = matrix.shape[0] <= matrix.shape[1]
    short = matrix if wide else matrix.t()
    found = torch.linalg.eigh(short @ short.t()).eigenvectors[:, -rank:].flip(1)
    other = found.t() @ short
    values = other.norm(dim=1)
    other /= values.clamp_min(torch.finfo(values.dtype).tiny)[:, None]
    return (found, values, other) if wide else (other.t(), values, found.t())


def randomised_svd(
    weight: Tensor, rank: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """About the first `rank` directions, as `leading_directions`, and up to 8 more, in the weight's own type. Halko et
    al. 2011, algorithms 4.4 and 5.1, with our own generator (torch's svd_lowrank draws from the global one); exact
    where a side of the weight is no longer than that."""
    columns = min(rank + 8, *weight.shape)
    basis = torch.linalg.qr(weight @ torch.randn(weight.shape[1], columns, generator=generator).to(weight.device)).Q
    for _ in range(iterations):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.t() @ basis).Q).Q
    u, s, vt = torch.linalg.svd(basis.t() @ weight, full_matrices=False)
    return basis @ u, s, vt
