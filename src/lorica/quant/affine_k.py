"""Q2_K, Q4_K, Q5_K: super-blocks of 256 weights, d * s * q - m * t: sub-blocks have small integer scales s and minima
t, the super-block one fp16 step d for the former and one, m, for the latter.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from lorica.quant.arithmetic import as_bytes, divide, halves, nearest, numbers, square_root, to_half, total
from lorica.quant.bits import join, split
from lorica.quant.codec import BlockCodec
from lorica.quant.search import Grid, fit_affine, fit_levels

SUPER_BLOCK = 256
IMPORTANCE_GRID = Grid(-0.9, 0.05, 36)


class AffineK(BlockCodec):
    """What the three share: the search. Each says how it lays out codes and scales."""

    block_length = SUPER_BLOCK
    importance_span = SUPER_BLOCK
    sub_block: int
    levels: int
    scale_levels: int
    grid: Grid
    absolute = False

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        x = blocks.view(-1, self.sub_block).t().contiguous()  # (weights of a sub-block, sub-blocks)
        if weights is None:
            w = self.own_weights(x)
            scale, minimum, codes = fit_affine(x, w, self.levels, self.grid, absolute=self.absolute)
        else:
            w = weights.view(-1, self.sub_block).t().contiguous()
            scale, minimum, codes = fit_affine(x, w, self.levels, IMPORTANCE_GRID)
        ends = torch.stack([scale, 0 - minimum]).view(2, len(blocks), -1)  # (2, blocks, sub-blocks of a block)
        if weights is None:
            steps, small = round_scales(ends, self.scale_levels)
        else:
            steps, small = self._fit_scales(ends, total(w).view(len(blocks), -1))
        step, offset = (steps.float()[..., None] * small).view(2, -1)
        recoded = torch.add(x, offset).div_(step).round_().clamp_(0, self.levels)
        codes = torch.where(step == 0, codes, recoded).to(torch.uint8).t().reshape(len(blocks), SUPER_BLOCK)
        return self.layout(codes, small.to(torch.uint8), as_bytes(steps.t()))

    def _fit_scales(self, ends: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        fitted = [fit_levels(values.t().contiguous(), weights.t().contiguous(), self.scale_levels) for values in ends]
        return to_half(torch.stack([step for step, _ in fitted])), torch.stack([small.t() for _, small in fitted])

    def write(self, codes: Tensor, steps: Tensor, small: Tensor, out: Tensor) -> None:
        """`codes` (blocks, 256) and `small` (blocks, 2, sub-blocks) uint8, `steps` (blocks, 2) fp32."""
        scale, offset = (steps[..., None] * small).unsqueeze(-1).unbind(1)
        out.copy_(codes).view(len(out), -1, self.sub_block).mul_(scale).sub_(offset)

    @abstractmethod
    def own_weights(self, x: Tensor) -> Tensor:
        """How much each error of `x` (weights of a sub-block, sub-blocks) counts, where no importance is given."""

    @abstractmethod
    def layout(self, codes: Tensor, small: Tensor, steps: Tensor) -> Tensor:
        """The bytes of `codes` (blocks, 256), `small` (2, blocks, sub-blocks) and `steps` (blocks, 4)."""


class Q2_K(AffineK):
    """16 sub-blocks of 16; bytes: 16 scale | minimum << 4, 64 of codes, d, m."""

    name, type_id, block_bytes = "Q2_K", 10, 84
    sub_block, levels, scale_levels = 16, 3, 15
    grid, absolute = Grid(-0.5, 0.1, 15), True

    def own_weights(self, x: Tensor) -> Tensor:
        return x.abs()

    def layout(self, codes: Tensor, small: Tensor, steps: Tensor) -> Tensor:
        quarters = join(codes.view(-1, 2, 4, 32), 2).view(-1, 64)
        return torch.cat([small[0] | small[1] << 4, quarters, steps], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        codes = split(packed[:, 16:80].reshape(-1, 2, 32), 2, 4).view(-1, SUPER_BLOCK)
        self.write(codes, halves(packed[:, 80:]), split(packed[:, :16], 4, 2), out)


class Q4_K(AffineK):
    """8 sub-blocks of 32; bytes: d, m, 12 of scales, 128 of codes."""

    name, type_id, block_bytes = "Q4_K", 12, 144
    sub_block, levels, scale_levels = 32, 15, 63
    grid = Grid(-1.0, 0.1, 20)
    importance_factor = 2.0

    def own_weights(self, x: Tensor) -> Tensor:
        mean = divide(total(x.square()), float(self.sub_block))
        return x.abs().add_(square_root(mean))

    def layout(self, codes: Tensor, small: Tensor, steps: Tensor) -> Tensor:
        return torch.cat([steps, join_scales(small), join(codes.view(-1, 4, 2, 32), 4).view(-1, 128)], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        codes = split(packed[:, 16:].reshape(-1, 4, 32), 4, 2).view(-1, SUPER_BLOCK)
        self.write(codes, halves(packed[:, :4]), split_scales(packed[:, 4:16]), out)


class Q5_K(Q4_K):
    """As Q4_K, with 32 bytes of fifth bits before the codes."""

    name, type_id, block_bytes = "Q5_K", 13, 176
    levels = 31
    grid = Grid(-0.5, 0.1, 15)

    def layout(self, codes: Tensor, small: Tensor, steps: Tensor) -> Tensor:
        fifth = join((codes >> 4).view(-1, 8, 32), 1)
        nibbles = join((codes & 15).view(-1, 4, 2, 32), 4).view(-1, 128)
        return torch.cat([steps, join_scales(small), fifth, nibbles], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        codes = split(packed[:, 48:].reshape(-1, 4, 32), 4, 2).view(-1, 8, 32)
        codes |= split(packed[:, 16:48], 1, 8, at=4)
        self.write(codes.view(-1, SUPER_BLOCK), halves(packed[:, :4]), split_scales(packed[:, 4:16]), out)


def round_scales(scales: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The fp16 step (..., blocks) and small integers (..., blocks, sub-blocks), fp32, of scales >= 0."""
    largest = scales.amax(-1)
    inverse = divide(float(levels), largest).masked_fill_(largest <= 0, 0)
    small = nearest(scales * inverse[..., None]).clamp_(0, levels)  # the inverse of a denormal is infinite
    return to_half(divide(largest, float(levels))), small


def join_scales(small: Tensor) -> Tensor:
    """8 scales and 8 minima of 6 bits, uint8 (2, blocks, 8), in 12 bytes: the low halves whole, the high halves in
    four bits of the last four bytes and the two spare bits of the others."""
    (low_s, high_s), (low_m, high_m) = (values.view(-1, 2, 4).unbind(1) for values in small)
    first, second = low_s | high_s >> 4 << 6, low_m | high_m >> 4 << 6
    return torch.cat([first, second, (high_s & 15) | (high_m & 15) << 4], 1)


def split_scales(packed: Tensor) -> Tensor:
    """The inverse of `join_scales`, uint8 (blocks, 2, 8); four codes at a time, as one 32-bit number."""
    words = numbers(packed, torch.int32)
    first, last = words[:, :2], words[:, 2]  # first: one word of scales, one of minima
    high = torch.stack([last, last >> 4], 1).bitwise_and_(0x0F0F0F0F).bitwise_or_(first >> 2 & 0x30303030)
    return torch.stack([first & 0x3F3F3F3F, high], 2).view(torch.uint8).view(-1, 2, 8)
