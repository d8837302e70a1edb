"""The searches behind llama.cpp's K-quants: scales that minimise a block's weighted error, many blocks at once.

Arrays are (weights of a block, blocks), so that every step is an operation on long rows and sums over a block are
sequential. The algorithms are those of ggml's make_qkx2/3_quants, make_qx_quants, make_q3_quants and make_qp_quants,
quirks included, since files have to be equal byte for byte.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lorica.quant.arithmetic import divide, extreme, nearest, total

SMALLEST = 1e-15  # blocks whose largest magnitude is below count as zero
SWEEPS = 5


class Grid(NamedTuple):
    """Candidate numbers of levels to stretch a block's range over: levels + low + step * i, i = 0 .. steps."""

    low: float
    step: float
    steps: int


def fit_affine(
    x: Tensor, weights: Tensor, levels: int, grid: Grid, *, absolute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """x = scale * code + minimum with codes 0 .. `levels` and minimum <= 0: each candidate grid is fitted by weighted
    least squares, and the best by squared (or absolute) error is kept.

    Returns scale (blocks), minimum (blocks) and codes (k, blocks), fp32.
    """
    minimum, maximum = x.min(0).values.clamp_(max=0), x.max(0).values  # of equal zeros the first
    sum_w, sum_x = total(weights), total(weights * x)
    inverse = divide(float(levels), maximum - minimum)
    scale = divide(1.0, inverse)
    inverse = _finite(inverse)
    codes = affine_codes(x, minimum, inverse, levels)
    error = _error(codes, x, weights, scale, minimum, absolute)
    chosen, start = inverse, minimum  # the grid that the codes come from
    terms = x.new_empty(x.shape[0], 3, x.shape[1])
    for stretched in torch.arange(grid.steps + 1, dtype=x.dtype, device=x.device) * grid.step + grid.low + levels:
        inverse = _finite(divide(stretched, maximum - minimum))
        codes = affine_codes(x, minimum, inverse, levels, out=codes)
        torch.mul(weights, codes, out=terms[:, 0])
        torch.mul(terms[:, 0], codes, out=terms[:, 1])
        torch.mul(terms[:, 0], x, out=terms[:, 2])
        sum_l, sum_l2, sum_xl = total(terms)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        positive = new_minimum > 0
        new_scale = torch.where(positive, sum_xl / sum_l2, new_scale)
        new_minimum.masked_fill_(positive, 0)
        new_error = _error(codes, x, weights, new_scale, new_minimum, absolute)
        better = (determinant > 0) & (new_error < error)
        error = torch.where(better, new_error, error)
        chosen, start = torch.where(better, inverse, chosen), torch.where(better, minimum, start)
        scale, minimum = torch.where(better, new_scale, scale), torch.where(better, new_minimum, minimum)
    return scale, minimum, affine_codes(x, start, chosen, levels, out=codes)


def affine_codes(x: Tensor, minimum: Tensor, inverse: Tensor, levels: int, out: Tensor | None = None) -> Tensor:
    return torch.sub(x, minimum, out=out).mul_(inverse).round_().clamp_(0, levels)


def fit_symmetric(x: Tensor, weights: Tensor | None, levels: int) -> tuple[Tensor, Tensor]:
    """x = scale * (code - levels) with codes 0 .. 2 levels - 1; `weights` are x^2 unless given.

    Returns scale (blocks), of either sign, and codes (k, blocks), fp32; both zero for blocks that count as zero.
    """
    weights = x.square() if weights is None else weights
    weighted, largest = weights * x, extreme(x)
    empty = largest.abs() < SMALLEST
    chosen = divide(-float(levels), largest).masked_fill_(empty, 0)
    terms = x.new_empty(x.shape[0], 2, x.shape[1])
    codes = symmetric_codes(x, chosen, levels)
    sum_xl, sum_l2 = _products(codes, weights, weighted, terms)
    scale = torch.where(sum_l2 != 0, sum_xl / sum_l2, 0)
    best = scale * sum_xl
    for step in (i for i in range(-9, 10) if i):
        levels_tried = x.new_tensor(step) * 0.1 + levels
        inverse = divide(-levels_tried, largest).masked_fill_(empty, 0)
        codes = symmetric_codes(x, inverse, levels, out=codes)
        sum_xl, sum_l2 = _products(codes, weights, weighted, terms)
        better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
        scale = torch.where(better, sum_xl / sum_l2, scale)
        best = torch.where(better, scale * sum_xl, best)
        chosen = torch.where(better, inverse, chosen)
    return scale, symmetric_codes(x, chosen, levels, out=codes).add_(levels).masked_fill_(empty, 0)


def symmetric_codes(x: Tensor, inverse: Tensor, levels: int, out: Tensor | None = None) -> Tensor:
    return torch.mul(x, inverse, out=out).round_().clamp_(-levels, levels - 1)


def descend_symmetric(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """As `fit_symmetric` with weights x^2, by coordinate descent from one grid. A block whose extreme value is positive
    starts with a negative correlation and is never refined."""
    weights, largest = x.square(), extreme(x)
    empty = largest.abs() < SMALLEST
    codes = symmetric_codes(x, divide(-float(levels), largest).masked_fill_(empty, 0), levels)
    scale, codes = _descend(x, weights, codes, -levels, levels - 1)
    return scale, codes.add_(levels).masked_fill_(empty, 0)


def fit_levels(x: Tensor, weights: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """x = scale * code for x >= 0, codes 0 .. `levels`: a few grids, then coordinate descent. How the scales of a
    super-block are packed under an importance matrix.

    Returns scale (blocks) and codes (k, blocks), fp32; both zero for blocks that count as zero.
    """
    largest = x.amax(0)
    empty = largest < SMALLEST
    chosen = divide(float(levels), largest).masked_fill_(empty, 0)
    error = _level_error(x, weights, chosen, levels)
    for step in (i for i in range(-4, 5) if i):
        inverse = divide(x.new_tensor(step) * 0.1 + levels, largest).masked_fill_(empty, 0)
        new_error = _level_error(x, weights, inverse, levels)
        better = new_error < error
        error, chosen = torch.where(better, new_error, error), torch.where(better, inverse, chosen)
    scale, codes = _descend(x, weights, nearest(x * chosen).clamp_(0, levels), 0, levels)
    return scale.masked_fill_(empty, 0), codes.masked_fill_(empty, 0)


def _descend(x: Tensor, weights: Tensor, codes: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
    """Change one code at a time while (sum w x l)^2 / sum w l^2 grows. Returns the least-squares scale and the
    codes."""
    weighted = weights * x
    sum_xl, sum_l2 = total(weighted * codes), total(weights * codes * codes)
    for _ in range(SWEEPS):
        changed = False
        for value, w, wx, code in zip(x, weights, weighted, codes, strict=True):
            rest_xl, rest_l2 = sum_xl - wx * code, sum_l2 - w * code * code
            new_code = nearest(value * rest_l2 / rest_xl).clamp_(lowest, highest)
            new_xl, new_l2 = rest_xl + wx * new_code, rest_l2 + w * new_code * new_code
            better = (rest_xl > 0) & (new_l2 > 0) & (new_code != code)
            if lowest == 0:
                better &= rest_l2 > 0
            better &= new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2
            code.copy_(torch.where(better, new_code, code))
            sum_xl, sum_l2 = torch.where(better, new_xl, sum_xl), torch.where(better, new_l2, sum_l2)
            changed = changed or bool(better.any())
        if not changed:
            break
    return torch.where(sum_l2 > 0, sum_xl / sum_l2, 0), codes


def _products(codes: Tensor, weights: Tensor, weighted: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    torch.mul(weighted, codes, out=terms[:, 0])
    torch.mul(weights, codes, out=terms[:, 1]).mul_(codes)
    sum_xl, sum_l2 = total(terms)
    return sum_xl, sum_l2


def _error(codes: Tensor, x: Tensor, weights: Tensor, scale: Tensor, minimum: Tensor, absolute: bool) -> Tensor:
    difference = torch.mul(codes, scale).add_(minimum).sub_(x)
    difference = difference.abs_() if absolute else difference.square_()
    return total(difference.mul_(weights))


def _level_error(x: Tensor, weights: Tensor, inverse: Tensor, levels: int) -> Tensor:
    difference = x - nearest(x * inverse).clamp_(max=levels) * divide(1.0, inverse)
    return total(weights * difference * difference)


def _finite(inverse: Tensor) -> Tensor:
    """A range of denormal width has no inverse; llama.cpp's rounding then gives code 0 throughout, as does 0."""
    return inverse.masked_fill_(torch.isinf(inverse), 0)
