"""Gated activations in Triton. A program computes a block of one row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lorica.kernels.triton.launching import TILE, as_rows, launch, write_back


@triton.jit
def _activate(x: tl.tensor, ACTIVATION: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The activation of fp32 `x` and its slope.

    The tanh of GELU's formula is written as a sigmoid, 1 + tanh(u) = 2 sigmoid(2 u), which is the same function, does
    not cancel, and makes it and SiLU the same expression: x sigmoid(v(x)).
    """
    if ACTIVATION == "relu":
        slope = tl.where(x > 0, 1.0, 0.0)
        return x * slope, slope
    elif ACTIVATION == "gelu":
        below = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))  # the normal distribution function
        return x * below, below + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif ACTIVATION == "gelu_pytorch_tanh":
        share = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))  # 2 sqrt(2 / pi)
        slope = 1.5957691216057308 * (1.0 + 0.134145 * x * x)
        return x * share, share + x * share * (1.0 - share) * slope
    else:
        share = tl.sigmoid(x)
        return x * share, share + x * share * (1.0 - share)


@triton.jit
def _forward(
    gate: tl.tensor,  # (rows, n)
    up: tl.tensor,
    product: tl.tensor,
    n: int,
    gate_stride: int,
    up_stride: int,
    ACTIVATION: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < n
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    activated, _slope = _activate(g, ACTIVATION)
    tl.store(product + row * n + column, (activated * u).to(product.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    d_product: tl.tensor,  # (rows, n); becomes the product
    gate: tl.tensor,  # becomes its gradient
    up: tl.tensor,  # becomes its gradient
    n: int,
    d_stride: int,
    gate_stride: int,
    up_stride: int,
    ACTIVATION: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < n
    d = tl.load(d_product + row * d_stride + column, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    activated, slope = _activate(g, ACTIVATION)
    tl.store(d_product + row * d_stride + column, (activated * u).to(d_product.dtype.element_ty), mask=inside)
    tl.store(gate + row * gate_stride + column, (d * u * slope).to(gate.dtype.element_ty), mask=inside)
    tl.store(up + row * up_stride + column, (d * activated).to(up.dtype.element_ty), mask=inside)


def gated_triton(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    product = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    inputs = [as_rows(gate), as_rows(up)]
    _launch(_forward, inputs, [as_rows(product)], activation)
    return product


def gated_backward_triton_(d_product: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    tensors = (d_product, gate, up)
    rows = [as_rows(tensor) for tensor in tensors]
    _launch(_backward, rows, [], activation)
    for changed, tensor in zip(rows, tensors, strict=True):
        write_back(changed, tensor)


def _launch(kernel: triton.JITFunction, strided: list[Tensor], contiguous: list[Tensor], activation: str) -> None:
    rows, n = strided[0].shape
    columns = min(TILE, triton.next_power_of_2(n))
    launch(
        kernel,
        (rows, triton.cdiv(n, columns)),
        *(*strided, *contiguous, n, *(tensor.stride(0) for tensor in strided)),
        tile=columns,
        ACTIVATION=activation,
        COLUMNS=columns,
    )
