"""The most memory the process has held."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """On an accelerator the most that tensors have taken since the run began; on a CPU the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
