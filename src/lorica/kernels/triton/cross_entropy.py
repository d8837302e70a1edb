"""Cross-entropy in Triton: a program reads one row of logits twice, for its sum and for its gradient.

The first reading keeps a running maximum and rescales the sum when it grows (Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867), so a row of any length is one pass. Everything is fp32 whatever the logits are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lorica.kernels.triton.launching import as_rows, launch, write_back

# Logits that a program holds at once.
BLOCK = 4096


@triton.jit
def _tanh(x: tl.tensor) -> tl.tensor:
    """Triton's language has none that works without a GPU; this one is right to 1e-7 and cannot overflow."""
    decay = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - decay) / (1.0 + decay)
    return tl.where(x < 0, -size, size)


@triton.jit
def _row(
    logits: tl.tensor,  # (rows, vocabulary); become the gradient if it is wanted
    labels: tl.tensor,  # (rows,) int64
    coefficients: tl.tensor,  # (rows,) fp32
    losses: tl.tensor,  # (rows,) fp32
    hits: tl.tensor,  # (rows,) uint8; not written beside a gradient
    vocabulary: int,
    row_stride: int,
    scale: float,
    softcap: float,
    SOFTCAP: tl.constexpr,
    GRADIENT: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    label = tl.load(labels + row)
    columns = tl.arange(0, COLUMNS)

    # Of each lane of the block; they meet once, after the row.
    largest = tl.full([COLUMNS], float("-inf"), tl.float32)
    where = tl.zeros([COLUMNS], tl.int32)  # of the lane's largest logit, the first of equal ones
    total = tl.zeros([COLUMNS], tl.float32)  # of exp(z - largest)
    attracted = tl.zeros([COLUMNS], tl.float32)  # of the label's z
    for start in range(0, vocabulary, COLUMNS):
        column = start + columns
        z = tl.load(logits + column, mask=column < vocabulary, other=0.0).to(tl.float32) * scale
        if SOFTCAP:
            z = softcap * _tanh(z / softcap)
        attracted += tl.where(column == label, z, 0.0)
        z = tl.where(column < vocabulary, z, float("-inf"))
        if not GRADIENT:
            where = tl.where(z > largest, column, where)
        grown = tl.maximum(largest, z)
        reference = tl.where(grown == float("-inf"), 0.0, grown)  # nothing but -inf so far
        total = total * tl.exp(largest - reference) + tl.exp(z - reference)
        largest = grown
    row_largest = tl.max(largest, axis=0)
    row_total = tl.sum(total * tl.exp(largest - row_largest), axis=0)
    tl.store(losses + row, (row_largest - tl.sum(attracted, axis=0)) + tl.log(row_total))

    if not GRADIENT:
        most_likely = tl.min(tl.where(largest == row_largest, where, vocabulary), axis=0)
        tl.store(hits + row, (most_likely == label).to(tl.uint8))
    else:
        coefficient = tl.load(coefficients + row)
        for start in range(0, vocabulary, COLUMNS):
            column = start + columns
            z = tl.load(logits + column, mask=column < vocabulary, other=0.0).to(tl.float32) * scale
            slope = scale
            if SOFTCAP:
                capped = _tanh(z / softcap)
                z = softcap * capped
                slope = scale * (1.0 - capped * capped)
            target = tl.where(column == label, 1.0, 0.0)
            gradient = coefficient * (tl.exp(z - row_largest) / row_total - target) * slope
            tl.store(logits + column, gradient.to(logits.dtype.element_ty), mask=column < vocabulary)


def cross_entropy_triton(
    logits: Tensor, labels: Tensor, scale: float = 1.0, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    hits = torch.empty(len(logits), dtype=torch.bool, device=logits.device)
    return _losses(as_rows(logits), labels, None, hits, scale, softcap), hits


def cross_entropy_triton_(
    logits: Tensor, labels: Tensor, coefficients: Tensor, scale: float = 1.0, softcap: float = 0.0
) -> Tensor:
    rows = as_rows(logits)
    losses = _losses(rows, labels, coefficients, None, scale, softcap)
    write_back(rows, logits)
    return losses


def _losses(
    logits: Tensor, labels: Tensor, coefficients: Tensor | None, hits: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """With `coefficients` the logits become their gradient, without them `hits` are written."""
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    weights = losses if coefficients is None else coefficients.float().contiguous()  # not read without them
    flags = losses if hits is None else hits.view(torch.uint8)  # not written without them
    columns = min(BLOCK, triton.next_power_of_2(logits.shape[1]))
    launch(
        _row,
        (len(logits),),
        *(logits, labels.contiguous(), weights, losses, flags),
        *(logits.shape[1], logits.stride(0), scale, softcap),
        tile=columns,
        SOFTCAP=softcap != 0.0,
        GRADIENT=coefficients is not None,
        COLUMNS=columns,
    )
    return losses
