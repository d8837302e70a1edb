"""In which precision a base computes, by policy rather than by autocast."""

from dataclasses import dataclass

import torch

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Precision:
    dtype: torch.dtype
    reason: str


def choose_device(wanted: str) -> torch.device:
    """The device for `system.device`. Raises ValueError if one is asked for that this machine does not have."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(wanted):
        there = ", ".join(name for name, yes in available.items() if yes)
        raise ValueError(
            f"system.device is {wanted}, which torch {torch.__version__} does not see here; it sees {there}."
        )
    return torch.device(wanted)


def choose_precision(wanted: str, stored: torch.dtype, device: torch.device) -> Precision:
    """bf16 where the hardware multiplies it natively and the base is stored in 16 bits, else fp32.

    A CPU without AMX or AVX512-BF16 multiplies bf16 about a hundred times slower than fp32. A base stored in fp32 stays
    fp32 on a CPU, where memory is cheap; on an accelerator it is rounded to bf16 as every fine-tuning tool does. Raises
    ValueError for a precision by another name.
    """
    if wanted in DTYPES:
        return Precision(DTYPES[wanted], "as set")
    if wanted != "auto":
        raise ValueError(f'the precision is "{wanted}"; expected auto, {" or ".join(DTYPES)}.')
    if not multiplies_bf16(device):
        return Precision(torch.float32, f"this {device.type} has no native bf16 multiplication")
    if device.type == "cpu" and stored == torch.float32:
        return Precision(torch.float32, "the base is stored in fp32")
    return Precision(torch.bfloat16, f"this {device.type} multiplies bf16 natively")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has native bf16 matrix products."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False
