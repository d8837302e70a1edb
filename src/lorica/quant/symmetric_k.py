"""Q3_K, Q6_K: super-blocks of 256 weights in 16 sub-blocks, d * s * (q - half the levels), one fp16 d and signed small
integer scales s.
"""

import torch
from torch import Tensor

from lorica.quant.arithmetic import as_bytes, divide, extreme, halves, to_half, total
from lorica.quant.bits import join, split
from lorica.quant.codec import BlockCodec
from lorica.quant.search import SMALLEST, descend_symmetric, fit_symmetric

SUPER_BLOCK = 256
SUB_BLOCK = 16


def recode(x: Tensor, codes: Tensor, scale: Tensor, levels: int) -> Tensor:
    """The codes nearest to x / scale, uint8 (blocks, 256); those of the search where the rounded scale is zero."""
    nearest = torch.div(x, scale).round_().clamp_(-levels, levels - 1).add_(levels)
    return torch.where(scale == 0, codes, nearest).to(torch.uint8).t().reshape(-1, SUPER_BLOCK)


def write(codes: Tensor, step: Tensor, small: Tensor, levels: int, out: Tensor) -> None:
    """`codes` uint8 (blocks, 256), `step` fp32 (blocks, 1), `small` (blocks, 16)."""
    scale = (step * small).unsqueeze(-1)
    out.copy_(codes.sub_(levels).view(torch.int8)).view(-1, SUB_BLOCK, SUB_BLOCK).mul_(scale)


class Q6_K(BlockCodec):
    """Bytes: 128 of low nibbles, 64 of upper bits, 16 int8 scales, d."""

    name, type_id, block_length, block_bytes = "Q6_K", 14, SUPER_BLOCK, 210
    levels = 32

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        x = blocks.view(-1, SUB_BLOCK).t().contiguous()
        w = None if weights is None else weights.view(-1, SUB_BLOCK).t().contiguous()
        scale, codes = fit_symmetric(x, w, self.levels)
        scales = scale.view(-1, SUB_BLOCK)  # (blocks, sub-blocks)
        largest = extreme(scales.t())[:, None]
        empty = largest.abs() < SMALLEST
        inverse = divide(-128.0, largest)
        step = to_half(divide(1.0, inverse).masked_fill_(empty, 0))
        small = (scales * inverse).round_().clamp_(max=127).masked_fill_(empty, 0)
        codes = recode(x, codes, (step.float() * small).flatten(), self.levels)
        return self._layout(codes.masked_fill_(empty, 0), small, step)

    @staticmethod
    def _layout(codes: Tensor, small: Tensor, step: Tensor) -> Tensor:
        low = join((codes & 15).view(-1, 2, 2, 64), 4)  # element i of a half shares a byte with i + 64
        high = join((codes >> 4).view(-1, 2, 4, 32), 2)
        return torch.cat([low.view(-1, 128), high.view(-1, 64), as_bytes(small.to(torch.int8)), as_bytes(step)], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        low = split(packed[:, :128].reshape(-1, 2, 64), 4, 2).view(-1, 2, 4, 32)
        codes = low.bitwise_or_(split(packed[:, 128:192].reshape(-1, 2, 32), 2, 4, at=4))
        write(
            codes.view(-1, SUPER_BLOCK), halves(packed[:, 208:]), packed[:, 192:208].view(torch.int8), self.levels, out
        )


class Q3_K(BlockCodec):
    """Bytes: 32 of third bits, 64 of low bits, 12 of 6-bit scales, d."""

    name, type_id, block_length, block_bytes = "Q3_K", 11, SUPER_BLOCK, 110
    importance_span, importance_factor = SUPER_BLOCK, 2.0
    levels = 4

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        x = blocks.view(-1, SUB_BLOCK).t().contiguous()
        if weights is None:
            scale, codes = descend_symmetric(x, self.levels)
            step, small = self._round_scales(scale.view(-1, SUB_BLOCK))
        else:
            w = weights.view(-1, SUB_BLOCK).t().contiguous()
            scale, codes = fit_symmetric(x, w, self.levels)
            sums = total(w).view(-1, SUB_BLOCK).t().contiguous()
            fitted, fitted_small = fit_symmetric(scale.view(-1, SUB_BLOCK).t().contiguous(), sums, 32)
            step, small = to_half(fitted)[:, None], fitted_small.t()
        codes = recode(x, codes, (step.float() * (small - 32)).flatten(), self.levels)
        return self._layout(codes, small.to(torch.uint8), step)

    @staticmethod
    def _round_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
        largest = extreme(scales.t())[:, None]
        inverse = divide(-32.0, largest)
        small = (scales * inverse).round_().clamp_(-32, 31).add_(32)
        empty = largest == 0
        return to_half(divide(1.0, inverse).masked_fill_(empty, 0)), small.masked_fill_(empty, 0)

    @staticmethod
    def _layout(codes: Tensor, small: Tensor, step: Tensor) -> Tensor:
        third = join((codes >> 2).view(-1, 8, 32), 1)
        low = join((codes & 3).view(-1, 2, 4, 32), 2).view(-1, 64)
        nibbles, tops = join((small & 15).view(-1, 2, 8), 4), join((small >> 4).view(-1, 4, 4), 2)
        return torch.cat([third, low, nibbles, tops, as_bytes(step)], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        codes = split(packed[:, 32:96].reshape(-1, 2, 32), 2, 4).view(-1, 8, 32)
        codes |= split(packed[:, :32], 1, 8, at=2)
        small = split(packed[:, 96:104], 4, 2).view(-1, SUB_BLOCK)
        small |= split(packed[:, 104:108], 2, 4, at=4).view(-1, SUB_BLOCK)
        write(codes.view(-1, SUPER_BLOCK), halves(packed[:, 108:]), small.sub_(32).view(torch.int8), self.levels, out)
