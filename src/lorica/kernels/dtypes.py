"""The one arithmetic rule of the kernels: 16-bit inputs are computed in fp32 and rounded once, at the end."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """`x` in the type it is computed in: fp32 for 16-bit floats, its own (no copy) for fp32 and fp64."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in this type; itself where it has it. `Tensor.to` says the same and takes a microsecond to find out, which
    counts in a step of small products."""
    return x if x.dtype == dtype else x.to(dtype)
