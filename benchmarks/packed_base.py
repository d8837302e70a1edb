"""A training step on a packed base beside one on the same base in dense weights: python benchmarks/packed_base.py

The shape is SmolLM2-135M's with random weights, one microbatch of 1,024 tokens, LoRA of rank 16 on all linear layers,
every token supervised. Steps of the two alternate, so that other work on the machine hits both; a row is the median
processor time of a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lorica.data.batches import microbatches
from lorica.data.examples import Example
from lorica.lora import attach
from lorica.quant import CODECS, PackedMatrix, codec, fallback, pack_model
from lorica.training.subject import Subject, subject_of

SHAPE: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}
TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "NF4")


def subject(type_name: str | None, layers: int, dtype: torch.dtype, recompute: bool) -> Subject:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=layers)).to(dtype)
    if type_name is not None:
        pack_model(model, lambda name, module: codec(fallback(type_name, module.weight.shape[1])))
    adapter = attach(model, r=16, alpha=32)
    return subject_of(model, adapter, recompute)


def step_seconds(subject: Subject, batch: Any) -> float:
    started = time.process_time()
    subject.engine.loss(batch, batch.weights / batch.weights.sum()).backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--types", nargs="+", default=TYPES, choices=list(CODECS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    ids = torch.randint(SHAPE["vocab_size"], (arguments.tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    [batch] = microbatches([Example("", ids, [0.0] + [1.0] * (len(ids) - 1))], len(ids))
    make = (arguments.layers, dtype, arguments.recompute)
    dense, rows = subject(None, *make), []
    print(f"{dense.engine.description}; {arguments.dtype}; torch {torch.__version__}")
    print("| type | dense s | packed s | more time | packed MB | dense MB |\n| --- | --- | --- | --- | --- | --- |")
    for name in arguments.types:
        packed = subject(name, *make)
        assert packed.engine.description == dense.engine.description, packed.engine.description
        times = [(step_seconds(dense, batch), step_seconds(packed, batch)) for _ in range(arguments.steps + 1)][1:]
        before, after = (statistics.median(column) for column in zip(*times, strict=True))
        matrices = [part for part in packed.model.modules() if isinstance(part, PackedMatrix)]
        weights = sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices)
        sizes = [sum(matrix.packed.nbytes for matrix in matrices), weights * dtype.itemsize]
        rows.append({"type": name, "dense_seconds": before, "packed_seconds": after, "bytes": sizes})
        print(
            f"| {name} | {before:.2f} | {after:.2f} | {after / before - 1:+.1%} | {sizes[0] / 1e6:.0f} | "
            f"{sizes[1] / 1e6:.0f} |",
            flush=True,
        )
    if arguments.json is not None:
        told = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "torch": torch.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
