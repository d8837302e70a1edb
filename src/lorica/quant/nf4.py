"""NF4: 64 weights as indices into the quantiles of a normal distribution, times the block's largest magnitude (Dettmers
et al. 2023, https://arxiv.org/abs/2305.14314), with bitsandbytes' numbers.

bitsandbytes keeps codes and magnitudes of a whole tensor apart; here they are together row by row, so that rows can be
gathered, cut and unpacked alone. `lorica.quant.bitsandbytes` converts between the two without loss.
"""

import math
from functools import cache

import torch
from torch import Tensor

from lorica.quant.arithmetic import as_bytes, divide, numbers
from lorica.quant.codec import BlockCodec, Codec

BLOCK = 64
NESTED = 256  # magnitudes that share a scale under double quantisation
CODES = BLOCK // 2  # bytes
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class NF4(BlockCodec):
    """largest magnitude * level[q]; bytes: fp32 magnitude, 32 of codes, the earlier weight in the upper half."""

    name, type_id, block_length, block_bytes = "NF4", None, BLOCK, 4 + CODES
    uses_importance = False

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        magnitude = blocks.abs().amax(1, keepdim=True)
        scaled = (blocks * divide(1.0, magnitude.clamp_min(1e-38))).clamp_(-1, 1)
        codes = nearest_index(scaled, levels(blocks.device)).to(torch.uint8)
        return torch.cat([as_bytes(magnitude), codes[:, ::2] << 4 | codes[:, 1::2]], 1)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        look_up_pairs(packed[:, 4:], out)
        out.mul_(numbers(packed[:, :4], torch.float32))


class DoubleNF4(Codec):
    """NF4 with magnitudes in 8 bits: offset + scale * map[code], a scale for 256 magnitudes of the whole tensor, an
    offset for all.

    A row holds its codes, its magnitudes, the scales they use, the offset, and the place of its first magnitude among
    the 256, so that it stands alone: at most 12 bytes a row more than bitsandbytes takes, for rows up to 16,384.
    """

    name, type_id, block_length = "NF4_DQ", None, BLOCK
    bits_per_weight = 4 + 8 / BLOCK + 32 / BLOCK / NESTED
    uses_importance = False

    def _bytes(self, blocks: int) -> int:
        return blocks * (CODES + 1) + 4 * (scales_of_row(blocks) + 2)

    def _blocks(self, row_bytes: int) -> int:
        blocks = row_bytes // (CODES + 1)
        while blocks > 0 and self._bytes(blocks) > row_bytes:
            blocks -= 1
        return blocks

    def pack(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        self.row_bytes(weight.shape[1])
        single = NF4().pack(weight).view(-1, 4 + CODES)
        magnitude = numbers(single[:, :4], torch.float32).flatten()
        offset = magnitude.mean()
        codes, scales = pack_magnitudes(magnitude - offset)
        return self.assemble(single[:, 4:].reshape(len(weight), -1), codes, scales, offset)

    def assemble(self, codes: Tensor, magnitudes: Tensor, scales: Tensor, offset: Tensor) -> Tensor:
        """Packed rows from `codes` (rows, columns / 2), and of the whole tensor uint8 `magnitudes` (blocks), fp32
        `scales` (blocks / 256, rounded up) and one fp32 `offset`."""
        rows, blocks = len(codes), codes.shape[1] // CODES
        first = torch.arange(rows, device=codes.device) * blocks  # among all magnitudes
        place = first[:, None] // NESTED + torch.arange(scales_of_row(blocks), device=codes.device)
        used = scales[place.clamp(max=len(scales) - 1)]
        tail = [used, offset.expand(rows, 1), (first % NESTED).int().view(torch.float32)[:, None]]
        return torch.cat([codes, magnitudes.view(rows, blocks), as_bytes(torch.cat(tail, 1))], 1)

    def take_apart(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """codes (rows, columns / 2), magnitudes (rows, blocks), scales (rows, n), offset (rows, 1), the place of the
        first magnitude (rows, 1)."""
        blocks = self.columns(packed.shape[1]) // BLOCK
        codes, magnitudes, tail = packed.split([blocks * CODES, blocks, packed.shape[1] - blocks * (CODES + 1)], 1)
        tail = numbers(tail, torch.float32)
        return codes, magnitudes, tail[:, :-2], tail[:, -2:-1], numbers(tail[:, -1:], torch.int32)

    def unpack_rows(self, packed: Tensor, out: Tensor) -> None:
        codes, magnitudes, scales, offset, first = self.take_apart(packed)
        blocks = magnitudes.shape[1]
        place = (first + torch.arange(blocks, device=packed.device)) // NESTED
        magnitude = dynamic_map(packed.device)[magnitudes.int()] * scales.gather(1, place.long()) + offset
        look_up_pairs(codes, out)
        out.view(-1, blocks, BLOCK).mul_(magnitude[..., None])


def scales_of_row(blocks: int) -> int:
    """The most runs of 256 magnitudes that `blocks` successive ones touch."""
    return (blocks + NESTED - 2) // NESTED + 1


def pack_magnitudes(values: Tensor) -> tuple[Tensor, Tensor]:
    """bitsandbytes' blockwise 8 bits: the nearest entries of the dynamic map, uint8 (n), and the largest magnitude of
    each 256, fp32."""
    runs = torch.nn.functional.pad(values, (0, -len(values) % NESTED)).view(-1, NESTED)
    scales = runs.abs().amax(1)
    scaled = (runs * divide(1.0, scales.clamp_min(1e-38))[:, None]).flatten()[: len(values)]
    return nearest_index(scaled, dynamic_map(values.device)).to(torch.uint8), scales


def nearest_index(values: Tensor, table: Tensor) -> Tensor:
    """Index of the nearest entry of a rising table; halves go down."""
    return torch.bucketize(values, (table[:-1] + table[1:]) / 2, out_int32=True)


@cache
def levels(device: torch.device) -> Tensor:
    return torch.tensor(LEVELS, device=device)


@cache
def _pairs(device: torch.device) -> Tensor:
    """The two levels of every byte, as one 64-bit number: one look-up gives two weights."""
    table = levels(device)
    return torch.cartesian_prod(table, table).contiguous().view(torch.int64).flatten()


def look_up_pairs(codes: Tensor, out: Tensor) -> None:
    torch.index_select(_pairs(codes.device), 0, codes.reshape(-1).int(), out=out.view(torch.int64).view(-1))


@cache
def dynamic_map(device: torch.device) -> Tensor:
    """The 256 values of bitsandbytes' signed 8-bit type (Dettmers et al. 2021, https://arxiv.org/abs/2110.02861): for
    each power of ten from 1e-6 to 1 the middles of 1, 2, 4 .. 64 equal parts of [0.1, 1], their negatives, 0 and 1."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2
        scale = math.pow(10, exponent - 6)
        values += (scale * middles).tolist() + (-scale * middles).tolist()
    return torch.tensor(sorted(values), device=device)
