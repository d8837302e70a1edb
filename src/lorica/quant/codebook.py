"""IQ4_NL, IQ4_XS and MXFP4: 32 weights as indices into sixteen fixed values, with one scale."""

from functools import cache

import torch
from torch import Tensor

from lorica.quant.arithmetic import as_bytes, divide, extreme, halves, inverse_or_zero, to_half, total
from lorica.quant.bits import join, split
from lorica.quant.codec import BlockCodec
from lorica.quant.search import SMALLEST

BLOCK = 32
NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# FP4 E2M1 doubled, so that they are integers (OCP Microscaling Formats 1.0); codes 8 .. 15 are the negatives
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
TRIALS = 7


@cache
def _values(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def look_up(codes: Tensor, values: Tensor, out: Tensor) -> None:
    torch.index_select(values, 0, codes.reshape(-1).int(), out=out.view(-1))


def nearest(x: Tensor) -> Tensor:
    """The indices of the values of `NON_LINEAR` that are nearest; halves go up."""
    values = _values(NON_LINEAR, x.device)
    return torch.bucketize(x, (values[1:] + values[:-1]) / 2, right=True, out_int32=True)


def search(x: Tensor, w: Tensor) -> Tensor:
    """The scale (blocks) of `NON_LINEAR` for `x` (32, blocks) by least squares weighted by `w`; 0 for empty blocks."""
    values = _values(NON_LINEAR, x.device)
    largest = extreme(x)
    first = float(NON_LINEAR[0])
    inverses = [divide(1.0, divide(-largest, first))]
    inverses += [divide(trial + first, largest) for trial in range(-TRIALS, TRIALS + 1)]
    scale = best = torch.zeros_like(largest)
    terms = x.new_empty(x.shape[0], 2, x.shape[1])
    for trial, inverse in enumerate(inverses):
        fitted = values[nearest(x * inverse)]
        torch.mul(w, fitted, out=terms[:, 0])
        torch.mul(terms[:, 0], fitted, out=terms[:, 1])
        terms[:, 0].mul_(x)
        sum_xq, sum_q2 = total(terms)
        better = sum_q2 > 0
        if trial:
            better &= sum_xq * sum_xq > best * sum_q2
        scale = torch.where(better, sum_xq / sum_q2, scale)
        best = torch.where(better, scale * sum_xq, best)
    return scale.masked_fill_(largest.abs() < SMALLEST, 0)


class IQ4_NL(BlockCodec):
    """d * value[q]; bytes: fp16 d, 16 of codes. The scale is searched on the codebook by least squares."""

    name, type_id, block_length, block_bytes = "IQ4_NL", 20, BLOCK, 18
    importance_span, importance_factor = BLOCK, 2.0

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        x = blocks.t().contiguous()
        w = x.square() if weights is None else weights.t().contiguous()
        scale = search(x, w)
        codes = nearest(x * inverse_or_zero(scale)).to(torch.uint8).t()
        return torch.cat([as_bytes(to_half(scale)[:, None]), join(codes.reshape(-1, 2, 16), 4)], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        look_up(split(packed[:, 2:], 4, 2), _values(NON_LINEAR, packed.device), out)
        out.mul_(halves(packed[:, :2]))


class IQ4_XS(BlockCodec):
    """Super-blocks of 256 weights, d * (s - 32) * value[q]; bytes: fp16 d, 2 of upper and 4 of lower bits of the eight
    scales s, 128 of codes. The search is IQ4_NL's."""

    name, type_id, block_length, block_bytes = "IQ4_XS", 23, 8 * BLOCK, 136
    importance_span, importance_factor = 8 * BLOCK, 2.0

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        x = blocks.view(-1, BLOCK).t().contiguous()
        w = x.square() if weights is None else weights.view(-1, BLOCK).t().contiguous()
        scales = search(x, w).view(-1, 8)
        step = divide(-extreme(scales.t()), 32.0)[:, None]
        small = (inverse_or_zero(step) * scales).round_().clamp_(-32, 31)
        codes = nearest(x * inverse_or_zero((step * small).flatten())).to(torch.uint8).t()
        stored = small.add(32).to(torch.uint8)
        high = join((stored >> 4).view(-1, 2, 4).transpose(1, 2), 2)
        low = join((stored & 15).view(-1, 4, 2).transpose(1, 2), 4)
        packed = join(codes.reshape(-1, 2, 16), 4).reshape(-1, 4 * BLOCK)
        return torch.cat([as_bytes(to_half(step)), high, low, packed], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        codes = split(packed[:, 8:].reshape(-1, 16), 4, 2)
        look_up(codes, _values(NON_LINEAR, packed.device), out)
        high = torch.stack([packed[:, 2:4] >> place & 3 for place in (0, 2, 4, 6)], -1).view(-1, 8)
        low = torch.stack([packed[:, 4:8] & 15, packed[:, 4:8] >> 4], -1).view(-1, 8)
        scales = halves(packed[:, :2]) * ((high << 4 | low).float() - 32)
        out.view(-1, 8, BLOCK).mul_(scales[..., None])


class MXFP4(BlockCodec):
    """2^(e - 128) * value[q]; bytes: exponent e, 16 of codes."""

    name, type_id, block_length, block_bytes = "MXFP4", 39, BLOCK, 17
    uses_importance = False

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        largest = blocks.abs().amax(1, keepdim=True)
        # C's log2f rounds log2 once from double: just below a power of two it can reach that power
        # and its cast of a negative exponent, a block below 2^-125, is undefined: here the exponent ends at zero
        exponent = largest.double().log2().float().floor().add_(125).clamp_(0, 255).masked_fill_(largest == 0, 0)
        step = torch.ldexp(torch.ones_like(largest), exponent.int() - 128)
        halfway = _values(E2M1_DOUBLED[:8], blocks.device)
        halfway = (halfway[1:] + halfway[:-1]) / 2
        codes = torch.bucketize((blocks / step).abs_(), halfway, out_int32=True).to(torch.uint8)  # halves go to zero
        codes |= ((blocks < 0) & (codes > 0)).to(torch.uint8) << 3
        return torch.cat([exponent.to(torch.uint8), join(codes.view(-1, 2, 16), 4)], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        look_up(split(packed[:, 1:], 4, 2), _values(E2M1_DOUBLED, packed.device), out)
        exponents = torch.arange(-128, 128, device=packed.device)
        steps = torch.ldexp(torch.ones(256, device=packed.device), exponents)
        out.mul_(steps[packed[:, :1].int()])
