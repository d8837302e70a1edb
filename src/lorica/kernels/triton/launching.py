"""What the launches have in common: tensors as rows of features, and the size of a program."""

from typing import Any

import torch
from torch import Tensor

# Values that a program holds at least: with fewer, the memory system idles.
TILE = 2048


def as_rows(x: Tensor) -> Tensor:
    """`x` (..., n) as (rows, n) with adjacent features: a view of it where its strides allow that, else a copy."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def write_back(rows: Tensor, x: Tensor) -> None:
    """Give `x` the values of its `as_rows`, if that was a copy."""
    if rows.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
        x.copy_(rows.view(x.shape))


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, tile: int, **constants: Any) -> None:
    """Run `kernel` on the device of its first argument; `tile` is how many values one of its programs holds.

    An empty grid, which CUDA refuses, is nothing to do. The number of warps gives a thread 16 values, within 4 to 16
    warps.
    """
    if 0 not in grid:
        with torch.cuda.device_of(arguments[0]):
            kernel[grid](*arguments, **constants, num_warps=min(16, max(4, tile // 512)))
