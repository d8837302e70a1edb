"""Q8_0, Q4_0, Q5_0, Q4_1, Q5_1: 32 weights with one fp16 scale, and in the `_1` formats an fp16 minimum.

Without an importance matrix the scale follows from the block's largest value and codes are rounded; with one it is
searched. The codes of the rounded formats come from the scale before fp16 rounds it: what llama.cpp does.
"""

import torch
from torch import Tensor

from lorica.quant.arithmetic import as_bytes, divide, extreme, halves, inverse_or_zero, round_half_away, to_half
from lorica.quant.bits import join, split, spread
from lorica.quant.codec import BlockCodec
from lorica.quant.search import Grid, fit_affine, fit_symmetric

BLOCK = 32
IMPORTANCE_GRID = Grid(-0.9, 0.05, 36)


class Q8_0(BlockCodec):
    """d * q: q in -127 .. 127."""

    name, type_id, block_length, block_bytes = "Q8_0", 8, BLOCK, 34
    uses_importance = False

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        scale = divide(blocks.abs().amax(1, keepdim=True), 127.0)
        codes = round_half_away(blocks * inverse_or_zero(scale))
        packed = torch.empty(len(blocks), self.block_bytes, dtype=torch.uint8, device=blocks.device)
        packed[:, :2] = as_bytes(to_half(scale))
        packed[:, 2:] = codes.to(torch.int8).view(torch.uint8)
        return packed

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        out.copy_(packed[:, 2:].view(torch.int8)).mul_(halves(packed[:, :2]))


class Symmetric(BlockCodec):
    """d * (q - 2^(bits - 1)): Q4_0, Q5_0."""

    block_length = BLOCK
    importance_span = -1

    def __init__(self, name: str, type_id: int, block_bytes: int, bits: int) -> None:
        self.name, self.type_id, self.block_bytes, self.bits = name, type_id, block_bytes, bits
        self.levels = 1 << (bits - 1)

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            scale = divide(extreme(blocks.t()), -float(self.levels))[:, None]
            # the cast cuts: q = trunc(x / d + levels + 0.5)
            codes = (blocks * inverse_or_zero(scale)).add_(self.levels + 0.5).clamp_(max=2 * self.levels - 1)
        else:
            best, best_codes = fit_symmetric(blocks.t().contiguous(), weights.t().contiguous(), self.levels)
            scale, codes = best[:, None], best_codes.t()
        return torch.cat([as_bytes(to_half(scale)), join_codes(codes.to(torch.uint8), self.bits)], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        nibbles = split(packed[:, -16:], 4, 2).view(-1, BLOCK)
        if self.bits == 4:
            codes = nibbles.sub_(self.levels)
        else:  # less 16, a code without its fifth bit has all upper bits set, and one with it none
            codes = nibbles.bitwise_or_(spread(packed[:, 2:6], zero=0xF0, one=0))
        out.copy_(codes.view(torch.int8)).mul_(halves(packed[:, :2]))


class Affine(BlockCodec):
    """d * q + m: Q4_1, Q5_1."""

    block_length = BLOCK
    importance_span = -1

    def __init__(self, name: str, type_id: int, block_bytes: int, bits: int) -> None:
        self.name, self.type_id, self.block_bytes, self.bits = name, type_id, block_bytes, bits
        self.levels = (1 << bits) - 1

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            # of equal zeros the first, whose sign is kept: amin and amax may take another
            lowest, highest = blocks.min(1, keepdim=True).values, blocks.max(1, keepdim=True).values
            scale = divide(highest - lowest, float(self.levels))
            codes = (blocks - lowest).mul_(inverse_or_zero(scale)).add_(0.5).clamp_(max=self.levels)
            ends = torch.cat([scale, lowest], 1)
        else:
            x, weights = blocks.t().contiguous(), weights.t().contiguous()
            best, minimum, best_codes = fit_affine(x, weights, self.levels, IMPORTANCE_GRID)
            codes, ends = best_codes.t(), torch.stack([best, minimum], 1)
        return torch.cat([as_bytes(to_half(ends)), join_codes(codes.to(torch.uint8), self.bits)], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        ends = halves(packed[:, :4])
        codes = split(packed[:, -16:], 4, 2).view(-1, BLOCK)
        if self.bits == 5:
            codes |= spread(packed[:, 4:8], zero=0, one=16)
        out.copy_(codes).mul_(ends[:, :1]).add_(ends[:, 1:])


def join_codes(codes: Tensor, bits: int) -> Tensor:
    """(blocks, 32) codes of 4 or 5 bits to bytes: the fifth bits as 32 bits, then element j below element j + 16."""
    nibbles = join((codes & 15).view(-1, 2, 16), 4)
    if bits == 4:
        return nibbles
    # bit b of byte k is the fifth bit of element 8 k + b
    fifth = join((codes >> 4).view(-1, 4, 8).transpose(1, 2), 1)
    return torch.cat([fifth, nibbles], 1)
