"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864), in place.

A pair of features turns by one angle, so cosines and sines have one column a pair. The backward pass of a rotation is
the rotation by the opposite angle, and needs nothing saved.
"""

import torch
from torch import Tensor

from lorica.kernels.dispatch import is_traced, runs_triton
from lorica.kernels.dtypes import cast, widened


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, inverse: bool = False) -> Tensor:
    """Turn the first `2 * pairs` features of each head in place, and return `x` (..., tokens, heads, dim).

    `cos` and `sin`: (..., tokens, pairs), one angle a pair, in any float type. transformers' tables (tokens, 2 * pairs)
    say each angle twice: `cos[..., :pairs]`, or `cos[..., ::2]` where they are interleaved (Cohere). Pair i is features
    (i, i + pairs), or (2 i, 2 i + 1) with `interleaved`. `inverse` turns back, which is the backward pass.
    """
    rotate = _operator if is_traced(x) else _rotate_
    rotate(x, cos, sin, interleaved, inverse)
    return x


def rotate_reference_(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, inverse: bool = False) -> Tensor:
    pairs = cos.shape[-1]
    if interleaved:
        first, second = x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    else:
        first, second = x.narrow(-1, 0, pairs), x.narrow(-1, pairs, pairs)
    wide_first, wide_second = widened(first), widened(second)  # views of x unless it is a 16-bit type
    cos, sin = (cast(table, wide_first.dtype).unsqueeze(-2) for table in (cos, sin))  # (..., tokens, 1, pairs)
    sign = -1 if inverse else 1
    crossed = wide_first * sin
    wide_first.mul_(cos).addcmul_(wide_second, sin, value=-sign)
    wide_second.mul_(cos).add_(crossed, alpha=sign)
    if wide_first is not first:
        first.copy_(wide_first)
        second.copy_(wide_second)
    return x


def _rotate_(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool) -> None:
    if runs_triton(x):
        from lorica.kernels.triton.rotary import rotate_triton_

        rotate_triton_(x, cos, sin, interleaved, inverse)
    else:
        rotate_reference_(x, cos, sin, interleaved, inverse)


_operator = torch.library.custom_op("lorica::rotate_", _rotate_, mutates_args={"x"})
