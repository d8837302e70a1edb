"""Rotary embedding in Triton. A program turns all heads of one token, whose angles it reads once."""

import triton
import triton.language as tl
from torch import Tensor

from lorica.kernels.triton.launching import launch


@triton.jit
def _turn(
    x: tl.tensor,  # (tokens, heads, dim)
    cos: tl.tensor,  # (tokens, pairs)
    sin: tl.tensor,
    heads: int,
    pairs: int,
    token_stride: int,
    head_stride: int,
    feature_stride: int,
    cos_stride: int,
    cos_pair_stride: int,
    sin_stride: int,
    sin_pair_stride: int,
    INTERLEAVED: tl.constexpr,
    INVERSE: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, PAIRS)[None, :]
    cosine = tl.load(cos + token * cos_stride + pair * cos_pair_stride, mask=pair < pairs, other=0.0).to(tl.float32)
    sine = tl.load(sin + token * sin_stride + pair * sin_pair_stride, mask=pair < pairs, other=0.0).to(tl.float32)
    if INVERSE:
        sine = -sine
    if INTERLEAVED:
        first = 2 * pair
        second = 2 * pair + 1
    else:
        first = pair
        second = pair + pairs
    inside = (head < heads) & (pair < pairs)
    row = x + token * token_stride + head * head_stride
    a = tl.load(row + first * feature_stride, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(row + second * feature_stride, mask=inside, other=0.0).to(tl.float32)
    tl.store(row + first * feature_stride, (a * cosine - b * sine).to(x.dtype.element_ty), mask=inside)
    tl.store(row + second * feature_stride, (b * cosine + a * sine).to(x.dtype.element_ty), mask=inside)


def rotate_triton_(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, inverse: bool = False) -> None:
    pairs = cos.shape[-1]
    tokens = x.reshape(-1, *x.shape[-2:])  # (tokens, heads, dim), a view if the strides allow it
    cos, sin = (table.expand(*x.shape[:-2], pairs).reshape(-1, pairs) for table in (cos, sin))
    heads, columns = min(32, triton.next_power_of_2(x.shape[-2])), triton.next_power_of_2(pairs)
    launch(
        _turn,
        (len(tokens), triton.cdiv(x.shape[-2], heads)),
        *(tokens, cos, sin, x.shape[-2], pairs, *tokens.stride(), *cos.stride(), *sin.stride()),
        tile=heads * columns,
        INTERLEAVED=interleaved,
        INVERSE=inverse,
        HEADS=heads,
        PAIRS=columns,
    )
    if tokens.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
        x.copy_(tokens.view(x.shape))
