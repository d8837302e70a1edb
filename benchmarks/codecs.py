"""Speed and error of the packed formats, on a normal matrix: python benchmarks/codecs.py [--json FILE]

Millions of weights a second of one thread's processor time, which other work on the machine disturbs little, or of a
GPU's own time; the best of several rounds. The error is ||unpacked - W|| / ||W||.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lorica.quant import CODECS, Codec

COLUMNS = 4096
SLOW_ROWS = 256  # for the formats that search
ROUNDS = 7


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    def once() -> float:
        if device.type == "cpu":
            started = time.process_time()
            function()
            return time.process_time() - started
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            function()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / 10

    return min(once() for _ in range(ROUNDS))


def measure(codec: Codec, weight: torch.Tensor) -> dict[str, Any]:
    packed = codec.pack(weight)
    sample = weight[:SLOW_ROWS] if codec.uses_importance else weight
    dense, half = torch.empty_like(weight), torch.empty_like(weight, dtype=torch.bfloat16)
    codec.unpack(packed, dense)
    return {
        "type": codec.name,
        "bits_per_weight": round(codec.bits_per_weight, 4),
        "relative_error": float((dense - weight).norm() / weight.norm()),
        "pack": sample.numel() / seconds(lambda: codec.pack(sample), weight.device) / 1e6,
        "unpack_fp32": weight.numel() / seconds(lambda: codec.unpack(packed, dense), weight.device) / 1e6,
        "unpack_bf16": weight.numel() / seconds(lambda: codec.unpack(packed, half), weight.device) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=1024, help="of 4,096 weights; a GPU is busy from 16,384")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    weight = 0.02 * torch.randn(arguments.rows, COLUMNS, generator=draw).to(arguments.device)
    print("| type | bits a weight | relative error | pack M/s | unpack to fp32 M/s | to bf16 M/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for codec in CODECS.values():
        row = measure(codec, weight)
        rows.append(row)
        speeds = " | ".join(f"{row[key]:,.0f}" for key in ("pack", "unpack_fp32", "unpack_bf16"))
        print(f"| {row['type']} | {row['bits_per_weight']:.3f} | {row['relative_error']:.4f} | {speeds} |", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
