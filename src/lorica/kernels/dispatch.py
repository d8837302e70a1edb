"""Which implementation of a kernel runs where; every kernel asks here and nowhere else."""

import functools
import importlib.util

import torch
from torch import Tensor


def calls_operator(x: Tensor) -> bool:
    """Whether a kernel on `x` is called as a torch operator, which the planner and compilers see as one.

    On a CPU the reference is called directly: it is made of torch's own operators, and going through another one
    would cost more than a small batch's arithmetic.
    """
    return not x.is_cpu


def runs_triton(x: Tensor) -> bool:
    """Whether the Triton kernel runs on `x`; otherwise the reference does."""
    return x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and has_triton()


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
