"""RMSNorm in Triton. A program holds whole rows: several short ones (a head's), or one long one."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lorica.kernels.norm import result_type
from lorica.kernels.triton.launching import TILE, as_rows, launch, write_back


@triton.jit
def _forward(
    x: tl.tensor,  # (rows, n)
    weight: tl.tensor,
    y: tl.tensor,
    rows: int,
    n: int,
    x_stride: int,
    eps: float,
    offset: float,
    ROUND_FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < n)
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    normalised = wide * tl.rsqrt(tl.sum(wide * wide, axis=1, keep_dims=True) / n + eps)
    if ROUND_FIRST:
        normalised = normalised.to(value.dtype).to(tl.float32)
    scale = tl.load(weight + column, mask=column < n, other=0.0).to(tl.float32) + offset
    tl.store(y + row * n + column, (normalised * scale).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    dy: tl.tensor,  # (rows, n); becomes dx
    x: tl.tensor,
    weight: tl.tensor,
    residual: tl.tensor,
    rows: int,
    n: int,
    dy_stride: int,
    x_stride: int,
    residual_stride: int,
    eps: float,
    offset: float,
    HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < n)
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=column < n, other=0.0).to(tl.float32) + offset
    gradient = tl.load(dy + row * dy_stride + column, mask=inside, other=0.0).to(tl.float32) * scale
    inverse = tl.rsqrt(tl.sum(value * value, axis=1, keep_dims=True) / n + eps)
    normalised = value * inverse
    along = tl.sum(gradient * normalised, axis=1, keep_dims=True) / n
    dx = inverse * (gradient - normalised * along)
    if HAS_RESIDUAL:
        dx += tl.load(residual + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dy + row * dy_stride + column, dx.to(dy.dtype.element_ty), mask=inside)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0, round_first: bool = True) -> Tensor:
    values = as_rows(x)
    y = torch.empty(values.shape, dtype=result_type(x, weight, round_first), device=x.device)
    rows, columns = tile(values)
    launch(
        _forward,
        (triton.cdiv(len(values), rows),),
        *(values, weight.contiguous(), y, *values.shape, values.stride(0), eps, offset),
        tile=rows * columns,
        ROUND_FIRST=round_first,
        ROWS=rows,
        COLUMNS=columns,
    )
    return y.view(x.shape)


def rms_norm_backward_triton_(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0, residual: Tensor | None = None
) -> None:
    gradient, value = as_rows(dy), as_rows(x)
    added = value if residual is None else as_rows(residual)  # not read without one
    rows, columns = tile(value)
    launch(
        _backward,
        (triton.cdiv(len(value), rows),),
        *(gradient, value, weight.contiguous(), added, *value.shape),
        *(gradient.stride(0), value.stride(0), added.stride(0), eps, offset),
        tile=rows * columns,
        HAS_RESIDUAL=residual is not None,
        ROWS=rows,
        COLUMNS=columns,
    )
    write_back(gradient, dy)


def tile(x: Tensor) -> tuple[int, int]:
    """Rows and columns that a program holds."""
    columns = triton.next_power_of_2(x.shape[1])
    return max(1, TILE // columns), columns
