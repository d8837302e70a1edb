"""fp32 arithmetic that rounds exactly where llama.cpp's C does, on any device.

The bytes of a packed weight depend on the last bit of sums and quotients, so sums are sequential, a quotient is never a
product with a reciprocal (which torch makes of a division by a number on a GPU, and of a number divided by a tensor
anywhere), and no operation is fused with another.
"""

import torch
from torch import Tensor

MAGIC = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the significand


def total(terms: Tensor) -> Tensor:
    """The sum over the first axis, one term after the other: a library's own order gives other last bits."""
    first, *others = terms.unbind(0)
    result = first.clone()
    for term in others:
        result += term
    return result


def divide(numerator: float | Tensor, denominator: float | Tensor) -> Tensor:
    """numerator / denominator, rounded once. One of them is a tensor."""
    like = numerator if isinstance(numerator, Tensor) else denominator
    assert isinstance(like, Tensor)
    top = numerator if isinstance(numerator, Tensor) else like.new_tensor(numerator)
    bottom = denominator if isinstance(denominator, Tensor) else like.new_tensor(denominator)
    return top / bottom


def inverse_or_zero(scale: Tensor) -> Tensor:
    """1 / scale, and 0 for scales that have no finite inverse: zero, and denormal ones, which fp16 stores as zero."""
    inverse = divide(1.0, scale)
    return inverse.masked_fill_(torch.isinf(inverse), 0)


def nearest(values: Tensor) -> Tensor:
    """The nearest integers, halves to even, as fp32. Beyond 2^22 the result is what llama.cpp's trick gives there."""
    return ((values + MAGIC).view(torch.int32) & 0x7FFFFF).sub_(0x400000).float()


def round_half_away(values: Tensor) -> Tensor:
    """C's roundf for |values| < 2^22, in place: adding the number just below a half and cutting never rounds 0.49999997
    up."""
    return values.add_(torch.copysign(values.new_tensor(0.49999997), values)).trunc_()


def square_root(values: Tensor) -> Tensor:
    """The correctly rounded fp32 root. torch's own is off in the last bit for one value in five on a CPU (MKL's); the
    root of a double is close enough that rounding it is exact."""
    return values.double().sqrt_().float()


def to_half(values: Tensor) -> Tensor:
    """fp16, rounded to nearest even. Raises ValueError for values that fp16 does not reach."""
    halves = values.half()
    if not torch.isfinite(halves).all():
        raise ValueError(
            f"packing needs a scale of {values.abs().max().item():.3g}, and the format's fp16 scales end at 65504; the "
            "weight holds values of a size that no trained model has."
        )
    return halves


def as_bytes(values: Tensor) -> Tensor:
    """The bytes of `values` (blocks, n) as uint8 (blocks, n * itemsize)."""
    return values.contiguous().view(torch.uint8)


def numbers(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers of `dtype` stored in the bytes `packed` (..., n * itemsize), wherever they begin; contiguous."""
    places = packed.storage_offset(), *packed.stride()[:-1]  # torch looks at the stride of a single row too
    if not packed.is_contiguous() or any(place % dtype.itemsize for place in places):
        packed = packed.clone(memory_format=torch.contiguous_format)
    return packed.view(dtype)


def halves(packed: Tensor) -> Tensor:
    """The fp16 numbers stored in the bytes `packed` (blocks, 2 n), as fp32 (blocks, n)."""
    strides = packed.storage_offset(), *packed.stride()[:-1]
    even = all(stride % 2 == 0 for stride in strides)  # then they are read where they are
    return (packed.view(torch.float16) if even else numbers(packed, torch.float16)).float()


def extreme(values: Tensor) -> Tensor:
    """Over the first axis, the value of largest magnitude with its sign; the first of equals, and +0 for zeros."""
    place = values.abs().max(0, keepdim=True).indices
    return values.gather(0, place).squeeze(0) + 0.0
