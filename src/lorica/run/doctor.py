"""What a machine can do for a run."""

import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

from lorica.models.precision import choose_device, multiplies_bf16
from lorica.units import shown_bytes

LEAST_FREE_DISK = 2 * 10**9


def examine() -> dict[str, Any]:
    """Versions, device, measured matrix rates (GFLOP/s), disk; and `problems`, a line each. Takes about a second."""
    device = choose_device("auto")
    versions, problems = _versions()
    free = shutil.disk_usage(".").free
    if free < LEAST_FREE_DISK:
        problems.append(f"only {shown_bytes(free)} of disk are free here; checkpoints may not fit")
    return {
        "python": platform.python_version(),
        "versions": versions,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "memory_gb": round(torch.cuda.mem_get_info()[1] / 1e9, 1) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "native_bf16": multiplies_bf16(device),
        "gflops": {
            name: round(_rate(device, dtype)) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        },
        "extras": [name for name in ("wandb", "trackio", "tensorboard", "peft", "llama-cpp-python") if _version(name)],
        "free_disk_gb": round(free / 1e9, 1),
        "problems": problems,
    }


def _versions() -> tuple[dict[str, str], list[str]]:
    """Installed versions of what Lorica needs, and which of them are too old."""
    needed = [Requirement(text) for text in requires("lorica") or [] if "extra ==" not in text]
    found = {need.name: _version(need.name) or "missing" for need in needed}
    problems = [
        f"{need.name} is {found[need.name]}, needed is {need.specifier}"
        for need in needed
        if not need.specifier.contains(found[need.name], prereleases=True)
    ]
    return {"lorica": version("lorica")} | found, problems


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _rate(device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 8) -> float:
    """Matrix product rate in GFLOP/s, the best of a few, after one to warm up."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9
