"""Unpacking in Triton. A program takes runs of weights that share a scale: (runs, weights of a run), so that a scale is
read once for many weights. A weight's bits are found where its format keeps them; every byte is read once or from a
cache. Products and sums are not fused, so that the fp32 values are the reference's to the bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lorica.kernels.triton.launching import TILE, launch
from lorica.kernels.unpack import FORMATS
from lorica.quant.nf4 import levels


@triton.jit
def _byte(start: tl.tensor, place: tl.tensor, inside: tl.tensor) -> tl.tensor:
    return tl.load(start + place, mask=inside, other=0).to(tl.int32)


@triton.jit
def _scale_and_minimum(start: tl.tensor, run: tl.tensor, inside: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The 6-bit scale and minimum of a run of Q4_K or Q5_K; `start` is that of its 12 bytes."""
    early = run < 4
    first, second, third = (
        _byte(start, tl.where(early, run, run - 4), inside),
        _byte(start, tl.where(early, run + 4, run), inside),
        _byte(start, run + 4, inside),
    )
    scale = tl.where(early, first & 63, (third & 15) | (first >> 6 << 4))
    minimum = tl.where(early, second & 63, (third >> 4) | (second >> 6 << 4))
    return scale, minimum


@triton.jit
def _unpack(
    packed: tl.tensor,  # bytes of blocks, one after the other
    numbers: tl.tensor,  # the same as fp16, or for NF4 as fp32
    table: tl.tensor,  # NF4's levels (16,)
    out: tl.tensor,  # (runs, RUN)
    runs: int,
    FORMAT: tl.constexpr,
    RUN: tl.constexpr,
    RUNS_OF_BLOCK: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    RUNS: tl.constexpr,
) -> None:
    row = (tl.program_id(0).to(tl.int64) * RUNS + tl.arange(0, RUNS))[:, None]
    within = tl.arange(0, RUN)[None, :]
    inside = row < runs
    everywhere = inside & (within < RUN)
    block, run = row // RUNS_OF_BLOCK, (row % RUNS_OF_BLOCK).to(tl.int32)
    start = packed + block * BLOCK_BYTES
    place = run * RUN + within  # of the weight in its block
    if FORMAT == "NF4":
        scale = tl.load(numbers + block * (BLOCK_BYTES // 4), mask=inside, other=0.0)
        code = _byte(start + 4, place // 2, everywhere) >> (4 - place % 2 * 4) & 15
        value = tl.load(table + code) * scale
    else:
        first = numbers + block * (BLOCK_BYTES // 2)
        if FORMAT == "Q8_0":
            step = tl.load(first, mask=inside, other=0.0).to(tl.float32)
            code = _byte(start + 2, place, everywhere)
            value = (code - (code >> 7 << 8)).to(tl.float32) * step
        elif FORMAT == "Q6_K":
            step = tl.load(first + 104, mask=inside, other=0.0).to(tl.float32)
            small = _byte(start + 192, run, inside)
            half, rest = place // 128, place % 128
            low = _byte(start, half * 64 + rest % 64, everywhere) >> (rest // 64 * 4) & 15
            high = _byte(start + 128, half * 32 + rest % 32, everywhere) >> (rest // 32 * 2) & 3
            code = (low | high << 4) - 32
            value = code.to(tl.float32) * (step * (small - (small >> 7 << 8)).to(tl.float32))
        elif FORMAT == "Q3_K":
            step = tl.load(first + 54, mask=inside, other=0.0).to(tl.float32)
            small = _byte(start + 96, run % 8, inside) >> (run // 8 * 4) & 15
            small |= (_byte(start + 104, run % 4, inside) >> (run // 4 * 2) & 3) << 4
            low = _byte(start + 32, place // 128 * 32 + place % 32, everywhere) >> (place % 128 // 32 * 2) & 3
            third = _byte(start, place % 32, everywhere) >> (place // 32) & 1
            value = ((low | third << 2) - 4).to(tl.float32) * (step * (small - 32).to(tl.float32))
        else:  # Q4_K, Q5_K
            step = tl.load(first, mask=inside, other=0.0).to(tl.float32)
            offset = tl.load(first + 1, mask=inside, other=0.0).to(tl.float32)
            small, minimum = _scale_and_minimum(start + 4, run, inside)
            nibbles = start + BLOCK_BYTES - 128
            code = _byte(nibbles, run // 2 * 32 + within, everywhere) >> (run % 2 * 4) & 15
            if FORMAT == "Q5_K":
                code |= (_byte(start + 16, within, everywhere) >> run & 1) << 4
            value = code.to(tl.float32) * (step * small.to(tl.float32)) - offset * minimum.to(tl.float32)
    tl.store(out + row * RUN + within, value.to(out.dtype.element_ty), mask=everywhere)


def unpack_triton_(name: str, packed: Tensor, out: Tensor) -> None:
    """`packed` uint8 (rows, row bytes) to `out` (rows, columns), both contiguous."""
    run, runs_of_block, block_bytes = FORMATS[name]
    table = levels(packed.device) if name == "NF4" else out  # not read without one
    numbers = packed.view(torch.float32 if name == "NF4" else torch.float16)
    runs = out.numel() // run
    rows = TILE // run
    launch(
        _unpack,
        (triton.cdiv(runs, rows),),
        *(packed, numbers, table, out, runs),
        tile=TILE,
        FORMAT=name,
        RUN=run,
        RUNS_OF_BLOCK=runs_of_block,
        BLOCK_BYTES=block_bytes,
        RUNS=rows,
        enable_fp_fusion=False,
    )
