"""Which implementation of a kernel runs where; every kernel asks here and nowhere else."""

import functools
import importlib.util

import torch
from torch import Tensor, nn


def is_traced(x: Tensor) -> bool:
    """Whether `x` stands for a tensor of a GPU in a planner's or a compiler's hands: they get one torch operator.

    Real tensors skip the operator: it costs 40 microseconds a call, as much as a small batch's arithmetic. On a CPU
    the reference is made of torch's operators anyway, which planners and compilers see through.
    """
    return not x.is_cpu and (x.is_meta or torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter))


def runs_triton(x: Tensor) -> bool:
    """Whether the Triton kernel runs on `x`; otherwise the reference does."""
    return x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and has_triton()


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
