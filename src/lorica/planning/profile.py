"""How fast this machine is, measured in a few seconds: matrix products by type and smallest side, copies, small
operators."""

import time
from collections.abc import Callable

import torch

from lorica.planning.here import device_name, free_bytes, overhead_bytes
from lorica.planning.machine import Machine

SIDES = (16, 64, 256, 1024, 4096)
LARGE = {"cpu": 1024, "cuda": 8192}  # the other sides of a product
COPIED = {"cpu": 1 << 26, "cuda": 1 << 30}  # bytes, beyond any cache
SECONDS = 0.15  # for one measurement


def measure_machine(device: torch.device) -> Machine:
    """What plans for this machine are made with."""
    rates = {kind: product_rates(device, dtype) for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    watts = power_limit(device)
    memory, overhead = free_bytes(device.type), overhead_bytes(device.type)
    found = (device_name(device.type), device.type, memory, rates, copy_rate(device), launch_seconds(device))
    return Machine(*found, overhead, watts, f"measured by `lorica doctor --profile`, torch {torch.__version__}")


def product_rates(device: torch.device, dtype: torch.dtype) -> list[tuple[int, float]]:
    """Flop/s of products whose smallest side is each of `SIDES`."""
    large, found = LARGE[device.type], []
    for side in SIDES:
        if side > large:
            break
        a = torch.randn(large, side, device=device, dtype=dtype)
        b = torch.randn(side, large, device=device, dtype=dtype)
        if side == large:
            a, b = a.contiguous(), b.contiguous()
        out = torch.empty(large, large, device=device, dtype=dtype)
        seconds = best_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)  # type: ignore[misc]
        found.append((side, 2.0 * large * side * large / seconds))
        if seconds > 2 * SECONDS:  # a type that this machine multiplies in software: larger sides are no faster
            break
    return found


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by an elementwise operator."""
    x = torch.ones(COPIED[device.type] // 4, device=device)
    out = torch.empty_like(x)
    return 2.0 * x.nbytes / best_seconds(lambda: torch.mul(x, 2.0, out=out), device)


def launch_seconds(device: torch.device) -> float:
    """What it takes to start one operator: a thousand on a few numbers, one after another."""
    x = torch.ones(8, device=device)

    def many() -> None:
        for _ in range(1000):
            x.add_(1.0)

    return best_seconds(many, device) / 1000


def best_seconds(compute: Callable[[], object], device: torch.device) -> float:
    """Of a few runs after one to warm up; a GPU's are queued and waited for together."""
    compute()
    best, spent = float("inf"), 0.0
    while spent < SECONDS:
        count = 1 if device.type == "cpu" else 10
        wait(device)
        started = time.perf_counter()
        for _ in range(count):
            compute()
        wait(device)
        seconds = time.perf_counter() - started
        best, spent = min(best, seconds / count), spent + seconds
    return best


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def power_limit(device: torch.device) -> float | None:
    """Of a GPU, if its maker's library says."""
    if device.type != "cuda":
        return None
    from lorica.planning.gpus import find_gpu

    try:
        return find_gpu(torch.cuda.get_device_name(device)).watts
    except ValueError:
        return None
