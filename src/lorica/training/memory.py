"""Running out of memory in a step, which less in memory at a time mends."""

import torch

# What torch's CPU allocator says, in a RuntimeError (c10/core/impl/alloc_cpu.cpp; on Windows the second).
CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")


class StepOutOfMemoryError(Exception):
    """A step ran out of memory. It was not applied, and a checkpoint stands before it."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_ALLOCATOR)


def told(error: BaseException) -> str:
    """What an allocator says, without advice and addresses."""
    text = str(error).partition("\n")[0].partition(". ")[0]
    return text.rpartition("] ")[2] or type(error).__name__
