"""This machine, as a plan sees it: measured if `lorica doctor --profile` was run, else by its GPU's name or a guess."""

import os
import resource
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from lorica.data.cache import default_folder
from lorica.files import read_json, write_json
from lorica.planning.gpus import CONTEXT_BYTES, find_gpu
from lorica.planning.machine import Machine

# Without a profile: a core of a server or a laptop, fp32 with AVX2 at 3 GHz, and half of a memory channel's bandwidth.
CORE_RATES = {"fp32": [(16, 10e9), (64, 25e9), (256, 45e9), (1024, 60e9)], "bf16": [(16, 0.3e9), (1024, 0.6e9)]}
CORE_BANDWIDTH, CORE_LAUNCH = 6e9, 6e-6
THREADS = 150 * 10**6  # bytes of address space that a thread's stack and glibc's arena for it reserve
LATER = 70 * 10**6  # bytes of libraries that a run loads after its plan (benchmarks/plan_resident.py)


def machines_folder() -> Path:
    """Where profiles and residuals of machines are kept."""
    return default_folder().parent / "machines"


def this_machine(device: str, loaded: int = 0) -> Machine:
    """With the memory that is free on it, and the `loaded` bytes that the planned model takes already."""
    name = device_name(device)
    memory = free_bytes(device) + (loaded if device == "cuda" else 0)
    overhead = overhead_bytes(device) - (0 if device == "cuda" else loaded)
    stored = read_profile(name)
    if stored is not None:
        return replace(stored, memory=memory, overhead=overhead)
    if device == "cuda":
        try:
            found = find_gpu(name).machine
        except ValueError:
            found = replace(find_gpu("A10").machine, source="not measured; figures of an A10")
        return replace(found, name=name, memory=memory)
    threads = torch.get_num_threads()
    rates = {kind: [(side, rate * threads) for side, rate in points] for kind, points in CORE_RATES.items()}
    source = "not measured: run `lorica doctor --profile`"
    return Machine(name, device, memory, rates, CORE_BANDWIDTH * threads, CORE_LAUNCH, overhead, None, source)


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    return f"{cpu or 'CPU'}, {torch.get_num_threads()} threads"


def overhead_bytes(device: str) -> int:
    """What the process holds beside tensors: on a CPU what it holds now, with all libraries loaded."""
    return CONTEXT_BYTES if device == "cuda" else resident_bytes() + LATER


def virtual_bytes() -> int:
    """The process's address space (Linux), 0 elsewhere."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0


def resident_bytes() -> int:
    """The process's memory now (Linux), or the most it has held (elsewhere)."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: str) -> int:
    """Memory that a run may take: free on the GPU; on a CPU available on the machine, within the process's limits."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    limits = [available_bytes(), *_cgroup_limits(), *_address_limits()]
    return min(limits)


def available_bytes() -> int:
    info = Path("/proc/meminfo")
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024 + resident_bytes()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_limits() -> list[int]:
    found = []
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return found


def _address_limits() -> list[int]:
    """What the process may hold under a limit of its address space, most of which is taken and not resident."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    left = soft - virtual_bytes() - THREADS
    return [] if soft == resource.RLIM_INFINITY else [max(0, left) + resident_bytes()]


def profile_path(name: str) -> Path:
    plain = "".join(c if c.isalnum() else "-" for c in name).strip("-").lower()
    return machines_folder() / f"{plain}.json"


def read_profile(name: str) -> Machine | None:
    path = profile_path(name)
    if not path.is_file():
        return None
    values = read_json(path)
    values["rates"] = {
        kind: [(int(side), float(rate)) for side, rate in points] for kind, points in values["rates"].items()
    }
    return Machine(**values)


def write_profile(machine: Machine) -> Path:
    path = profile_path(machine.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(machine))
    return path
