"""This machine, as a plan sees it: its name, its free memory, and the profile of its speed that is kept."""

import os
import resource
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from lorica.data.cache import default_folder
from lorica.files import read_json, write_json
from lorica.planning.gpus import CONTEXT_BYTES
from lorica.planning.machine import Machine

THREADS = 150 * 10**6  # bytes of address space that a thread's stack and glibc's arena for it reserve
LATER = 70 * 10**6  # bytes of libraries that a run loads after its plan (benchmarks/plan_resident.py)


def machines_folder() -> Path:
    """Where profiles and residuals of machines are kept."""
    return default_folder().parent / "machines"


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    threads = torch.get_num_threads()
    return f"{cpu or 'CPU'}, {threads} thread{'s' if threads > 1 else ''}"


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
    return most_resident_bytes()


def most_resident_bytes() -> int:
    """The most memory that the process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


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
    """None without one, or with one that is damaged or of another version: a machine is soon measured again."""
    try:
        values = read_json(profile_path(name))
        rates = values.pop("rates").items()
        return Machine(
            rates={kind: [(int(side), float(rate)) for side, rate in points] for kind, points in rates}, **values
        )
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return None


def write_profile(machine: Machine) -> Path:
    """Where it is kept, if that folder can be written."""
    path = profile_path(machine.name)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(machine))
    return path
