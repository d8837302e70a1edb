"""RMSNorm (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467): `x / sqrt(mean(x^2) + eps) * (offset + weight)`.

Nothing but `x` is needed for the backward pass: the inverse root mean square is one reduction over a row that has to
be read anyway, so it is computed again rather than saved.
"""

import torch
from torch import Tensor

from lorica.kernels.dispatch import is_traced, runs_triton
from lorica.kernels.dtypes import widened


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0, round_first: bool = True) -> Tensor:
    """`x`: (..., n); `weight`: (n,). Returns (..., n) of the type that transformers' own norm would give.

    `offset` is 1 for Gemma, whose weights are stored less one. `round_first` rounds the normalised row to x's type
    before the weight multiplies it, as Llama's norm does; Gemma's and OLMo 2's round once, after it. They differ in
    16-bit types only. Rounded last, the result has x's type; rounded first, that of `weight * x`.
    """
    norm = _operator if is_traced(x) else _rms_norm
    return norm(x, weight, eps, offset, round_first)


def rms_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: float,
    offset: float = 0.0,
    residual: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """The gradient of `x` (..., n), in dy's type, from the gradient `dy` of `rms_norm(x, ...)`.

    `residual` is a gradient that reached `x` by another way (the residual connection) and is added. With `overwrite`
    the result lies in dy's memory.
    """
    if not is_traced(x) and not runs_triton(x):
        return rms_norm_backward_reference(dy, x, weight, eps, offset, residual, overwrite)
    dx = dy if overwrite else dy.clone()
    backward = _backward_operator if is_traced(x) else _rms_norm_backward_
    backward(dx, x, weight, eps, offset, residual)
    return dx


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last axis, which is kept: (..., 1). One pass over `x`, no temporary."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0, round_first: bool = True) -> Tensor:
    wide = widened(x)
    inverse = inverse_rms(wide, eps)
    normalised = wide * inverse if wide is x else wide.mul_(inverse)
    if round_first and weight.dtype == x.dtype and not offset:
        return normalised.to(x.dtype).mul_(weight)
    if round_first:
        normalised = widened(normalised.to(x.dtype))
    return normalised.mul_(shifted(weight, offset)).to(result_type(x, weight, round_first))


def rms_norm_backward_reference(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: float,
    offset: float = 0.0,
    residual: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    wide, wide_dy = widened(x), widened(dy)
    reusable = overwrite or wide_dy is not dy
    gradient = torch.mul(wide_dy, shifted(weight, offset), out=wide_dy if reusable else None)
    inverse = inverse_rms(wide, eps)  # (..., 1)
    # dx = inverse * g - x * inverse^3 * mean(g x)
    along = torch.linalg.vecdot(gradient, wide).unsqueeze(-1).mul_(inverse.pow(3)).div_(-x.shape[-1])
    if residual is None:
        gradient.mul_(inverse)
    else:
        torch.addcmul(widened(residual), gradient, inverse, out=gradient)
    gradient.addcmul_(wide, along)
    return dy.copy_(gradient) if overwrite and gradient is not dy else gradient.to(dy.dtype)


def shifted(weight: Tensor, offset: float) -> Tensor:
    return widened(weight) + offset if offset else widened(weight)


def result_type(x: Tensor, weight: Tensor, round_first: bool) -> torch.dtype:
    return torch.promote_types(x.dtype, weight.dtype) if round_first else x.dtype


def _rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float, round_first: bool) -> Tensor:
    if runs_triton(x):
        from lorica.kernels.triton.norm import rms_norm_triton

        return rms_norm_triton(x, weight, eps, offset, round_first)
    return rms_norm_reference(x, weight, eps, offset, round_first)


def _rms_norm_backward_(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, offset: float, residual: Tensor | None
) -> None:
    if runs_triton(x):
        from lorica.kernels.triton.norm import rms_norm_backward_triton_

        rms_norm_backward_triton_(dy, x, weight, eps, offset, residual)
    else:
        rms_norm_backward_reference(dy, x, weight, eps, offset, residual, overwrite=True)


_operator = torch.library.custom_op("lorica::rms_norm", _rms_norm, mutates_args=())
_backward_operator = torch.library.custom_op("lorica::rms_norm_backward_", _rms_norm_backward_, mutates_args={"dy"})


@_operator.register_fake
def _(x: Tensor, weight: Tensor, eps: float, offset: float, round_first: bool) -> Tensor:
    return torch.empty_like(x, dtype=result_type(x, weight, round_first))
