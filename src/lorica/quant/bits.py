"""Codes of 1, 2 and 4 bits to bytes and back: GGUF keeps element l of several runs in one byte l."""

from functools import cache

import torch
from torch import Tensor


def join(codes: Tensor, width: int) -> Tensor:
    """(..., k, m) uint8 codes of `width` bits to (..., m) bytes; code k is at bit k * width."""
    first, *others = codes.unbind(-2)
    joined = first.clone()
    for place, code in enumerate(others, 1):
        joined |= code << (place * width)
    return joined


def split(packed: Tensor, width: int, count: int, at: int = 0) -> Tensor:
    """(..., m) bytes to (..., count, m) codes: the inverse of `join`; `at` is the bit where each code shall begin."""
    packed = packed.contiguous()  # short strided runs cost more than a copy
    mask = ((1 << width) - 1) << at
    places = [place * width - at for place in range(count)]
    moved = [packed >> place if place >= 0 else packed << -place for place in places]
    return torch.stack([code.bitwise_and_(mask) for code in moved], -2)


def spread(packed: Tensor, at: int) -> Tensor:
    """(blocks, m) bytes to (blocks, 8 m) codes of one bit each, at bit `at`: code 8 k + b is bit b of byte k. One
    look-up gives eight of them."""
    codes = torch.index_select(_bytes_of_bits(at, packed.device), 0, packed.reshape(-1).int())
    return codes.view(torch.uint8).view(len(packed), -1)


@cache
def _bytes_of_bits(at: int, device: torch.device) -> Tensor:
    """The bits of every byte as eight bytes, in one 64-bit number."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return (bits << at).to(torch.uint8).view(torch.int64).flatten()
