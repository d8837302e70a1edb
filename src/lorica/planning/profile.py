"""How fast this machine is, measured in two seconds: matrix products by type and smallest side, copies, small
operators."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from lorica.planning.gpus import find_gpu
from lorica.planning.here import device_name, free_bytes, overhead_bytes, read_profile, write_profile
from lorica.planning.machine import Machine
from lorica.quant.codec import for_device

SIDES = (16, 64, 256, 1024, 4096)
LARGE = {"cpu": 1024, "cuda": 8192}  # the other sides of a product
COPIED = {"cpu": 1 << 25, "cuda": 1 << 30}  # bytes, as large as a layer's activations
SECONDS = 0.15  # for one measurement


def this_machine(device: str, loaded: int = 0, notice: Callable[[str], None] | None = None) -> Machine:
    """With the memory that is free on it, and the `loaded` bytes that the planned model takes already. A CPU without a
    profile is measured, and the profile kept; a GPU without one has its maker's figures."""
    name = device_name(device)
    memory = free_bytes(device) + (loaded if device == "cuda" else 0)
    overhead = overhead_bytes(device) - (0 if device == "cuda" else loaded)
    found = read_profile(name)
    if found is None and device == "cuda":
        try:
            found = replace(find_gpu(name).machine, name=name)
        except ValueError:
            found = replace(find_gpu("A10").machine, name=name, source="figures of an A10, not measured")
    elif found is None:
        if notice is not None:
            notice("measuring how fast this machine is, once (again with: lorica doctor --profile)")
        found = measure_machine(torch.device(device))
        write_profile(found)
    return replace(found, memory=memory, overhead=overhead)


def measure_machine(device: torch.device) -> Machine:
    """What plans for this machine are made with."""
    rates = {kind: product_rates(device, dtype) for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    watts = power_limit(device)
    memory, overhead = free_bytes(device.type), overhead_bytes(device.type)
    found = (device_name(device.type), device.type, memory, rates, copy_rate(device), launch_seconds(device))
    return Machine(*found, overhead, watts, f"by the speed that was measured here, torch {torch.__version__}")


def product_rates(device: torch.device, dtype: torch.dtype) -> list[tuple[int, float]]:
    """Flop/s of products whose smallest side is each of `SIDES`."""
    large, found = for_device(LARGE, device), []
    for side in SIDES:
        if side > large:
            break
        a = torch.randn(large, side, device=device, dtype=dtype)
        b = torch.randn(side, large, device=device, dtype=dtype)
        if side == large:
            a, b = a.contiguous(), b.contiguous()
        out = torch.empty(large, large, device=device, dtype=dtype)
        seconds = best_seconds(partial(torch.mm, a, b, out=out), device)
        found.append((side, 2.0 * large * side * large / seconds))
        if seconds > SECONDS:  # a type that this machine multiplies in software: larger sides are no faster
            break
    return found


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by an elementwise operator."""
    x = torch.ones(for_device(COPIED, device) // 4, device=device)
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
    """Of a few runs after one to warm up, which is all if it is slow; a GPU's are queued and waited for together."""
    best = several(compute, 1, device)
    spent = best if best > SECONDS else 0.0
    count = 1 if device.type == "cpu" else 10
    while spent < SECONDS:
        seconds = several(compute, count, device)
        best, spent = min(best, seconds / count), spent + seconds
    return best


def several(compute: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds from the first to the last end of `count` runs."""
    wait(device)
    started = time.perf_counter()
    for _ in range(count):
        compute()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def power_limit(device: torch.device) -> float | None:
    """Of a GPU, if its maker's library says."""
    if device.type != "cuda":
        return None
    try:
        return find_gpu(torch.cuda.get_device_name(device)).watts
    except ValueError:
        return None
