"""The most memory the process has held."""

import torch

from lorica.planning.here import most_resident_bytes


def forget_peak(device: torch.device) -> None:
    """Count an accelerator's peak from here. A process's resident peak cannot be set back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """On an accelerator the most that tensors have taken since `forget_peak`; on a CPU the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return most_resident_bytes()
