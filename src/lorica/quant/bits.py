"""Codes of 1, 2 and 4 bits to bytes and back: GGUF keeps element l of several runs in one byte l."""

import torch
from torch import Tensor


def join(codes: Tensor, width: int) -> Tensor:
    """(..., k, m) uint8 codes of `width` bits to (..., m) bytes; code k is at bit k * width."""
    first, *others = codes.unbind(-2)
    joined = first.clone()
    for place, code in enumerate(others, 1):
        joined |= code << (place * width)
    return joined


def split(packed: Tensor, width: int, count: int) -> Tensor:
    """(..., m) bytes to (..., count, m) codes: the inverse of `join`."""
    packed = packed.contiguous()  # short strided runs cost more than a copy
    mask = (1 << width) - 1
    return torch.stack([(packed >> (place * width)).bitwise_and_(mask) for place in range(count)], -2)
