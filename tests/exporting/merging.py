"""Merges an adapter into a base of many shards and prints how far the memory rose above where it stood: run by
test_merge_memory."""

import json
import sys
from pathlib import Path

import torch

from lorica.exporting.merged import write_merged
from lorica.exporting.options import Options
from lorica.exporting.weights import read_weights_of
from lorica.run.source import open_source


def peak() -> int:
    """Bytes; Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


torch.addmm(*torch.ones(3, 700, 700)).bfloat16()  # what the library allocates when it first multiplies
adapter, out = Path(sys.argv[1]), Path(sys.argv[2])
source = open_source(adapter)
weights = read_weights_of(source)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from where memory stands
before = peak()
out.mkdir()
write_merged(source, weights, out, Options("merged"))
print(json.dumps({"grew": peak() - before, "shard": max(file.stat().st_size for file in out.glob("*.safetensors"))}))
