"""Codes of 1, 2 and 4 bits to bytes and back: GGUF keeps element l of several runs in one byte l."""

from functools import cache

import torch
from torch import Tensor

from lorica.quant.arithmetic import numbers


def join(codes: Tensor, width: int) -> Tensor:
    """(..., k, m) uint8 codes of `width` bits to (..., m) bytes; code k is at bit k * width."""
    first, *others = codes.unbind(-2)
    joined = first.clone()
    for place, code in enumerate(others, 1):
        joined |= code << (place * width)
    return joined


def split(packed: Tensor, width: int, count: int, at: int = 0) -> Tensor:
    """(..., m) bytes to (..., count, m) codes: the inverse of `join`; `at` is the bit where each code shall begin. m is
    a multiple of 4: bytes are shifted four or eight at a time, and the mask takes off what came from a neighbour."""
    words = numbers(packed, torch.int32 if packed.shape[-1] % 8 else torch.int64)
    places = [place * width - at for place in range(count)]
    moved = [words >> place if place > 0 else words << -place if place < 0 else words for place in places]
    mask = int.from_bytes(bytes([((1 << width) - 1) << at]) * words.itemsize, "little", signed=True)
    return torch.stack(moved, -2).bitwise_and_(mask).view(torch.uint8)


def spread(packed: Tensor, zero: int, one: int) -> Tensor:
    """(blocks, m) bytes to (blocks, 8 m) codes, the byte `zero` or `one` for each bit: code 8 k + b is bit b of byte k.
    One look-up gives eight of them."""
    codes = torch.index_select(_bytes_of_bits(zero, one, packed.device), 0, packed.reshape(-1).int())
    return codes.view(torch.uint8).view(len(packed), -1)


@cache
def _bytes_of_bits(zero: int, one: int, device: torch.device) -> Tensor:
    """The bits of every byte as eight bytes, in one 64-bit number."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return torch.where(bits > 0, one, zero).to(torch.uint8).view(torch.int64).flatten()
