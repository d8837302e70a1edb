"""Unpacking of packed weights on a GPU. `lorica.quant` holds the formats and the reference that says what they mean."""

import torch
from torch import Tensor

from lorica.kernels.dispatch import has_triton, is_traced

# Weights that share a scale, their runs in a block, and a block's bytes, of the formats that have a kernel.
FORMATS = {
    "NF4": (64, 1, 36),
    "Q8_0": (32, 1, 34),
    "Q6_K": (16, 16, 210),
    "Q5_K": (32, 8, 176),
    "Q4_K": (32, 8, 144),
    "Q3_K": (16, 16, 110),
}


def has_kernel(name: str, packed: Tensor, out: Tensor) -> bool:
    """Whether `unpack_` takes this format, these bytes and this result."""
    floats = (torch.float32, torch.bfloat16, torch.float16)
    there = packed.is_meta or (packed.is_cuda and has_triton())  # on the meta device a plan for a GPU
    return there and name in FORMATS and out.dtype in floats and packed.is_contiguous() and out.is_contiguous()


def unpack_(name: str, packed: Tensor, out: Tensor) -> None:
    """Write the weights of `packed`, uint8 (rows, row bytes), to `out` (rows, columns), rounding its fp32 values
    once."""
    kernel = _operator if is_traced(packed) else _unpack_
    kernel(name, packed, out)


def _unpack_(name: str, packed: Tensor, out: Tensor) -> None:
    from lorica.kernels.triton.unpack import unpack_triton_

    unpack_triton_(name, packed, out)


_operator = torch.library.custom_op("lorica::unpack_", _unpack_, mutates_args={"out"})


@_operator.register_fake
def _(name: str, packed: Tensor, out: Tensor) -> None:
    return None
