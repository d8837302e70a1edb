"""A LoRA step at the shape of a Llama on one GPU: speed, memory, and whether memory stays what it was.

    python benchmarks/engine_gpu.py [--shape llama-3-8b] [--steps 200] [--out RESULT.json]
    python benchmarks/engine_gpu.py --weights NF4 --tokens 2048 --recompute --cap 8
    python benchmarks/engine_gpu.py --shape llama-2-13b --weights NF4 --recompute --cap 24

Random weights in bf16, or packed, r 16 on all linear layers, microbatches of so many tokens in documents of 512, half
of them supervised, a whole optimiser step each. `--cap` is all the memory in GB (10^9 bytes) that torch may take. Speed
is the median of steps 20 and later; a leak is memory after the last step that was not there after the twentieth.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from machine import surroundings
from transformers import LlamaConfig, LlamaForCausalLM

from lorica.config.schema import TrainConfig
from lorica.data import Example, microbatches
from lorica.data.batches import Batch
from lorica.lora import attach
from lorica.quant import codec, pack_model
from lorica.training.optimiser import Optimiser
from lorica.training.subject import Subject, subject_of

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
    },
    "llama-2-13b": {
        "num_hidden_layers": 40,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32000,
    },
}
DOCUMENT, WARM_UP = 512, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--weights", help="a packed type, such as NF4 or Q4_K")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--cap", type=float, help="GB that torch may take once the base is there")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No GPU that torch sees; the processor's benchmark is benchmarks/engine.py.")
    subject = random_llama(arguments)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if arguments.cap:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(arguments.cap * 1e9 / total)
    result = surroundings() | {"gpu": torch.cuda.get_device_name(), "asked": vars(arguments) | {"out": None}}
    result |= {"engine": subject.engine.description, "base_bytes": torch.cuda.memory_allocated()}
    result |= measure(subject, arguments.steps, arguments.tokens)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def random_llama(arguments: argparse.Namespace) -> Subject:
    shape = dict(SHAPES[arguments.shape])
    if arguments.layers:
        shape["num_hidden_layers"] = arguments.layers
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**shape))
    torch.set_default_dtype(torch.float32)
    if arguments.weights:
        pack_model(model, codec(arguments.weights))
    return subject_of(model, attach(model, r=16, alpha=32, seed=0), recompute=arguments.recompute)


def measure(subject: Subject, steps: int, tokens: int) -> dict[str, Any]:
    optimiser = Optimiser.of(subject.parameters, TrainConfig(), 1e-4, joined=True)
    batch = pack(tokens).to(subject.device)
    seconds, held, losses = [], [], []
    for _ in range(steps):
        torch.cuda.synchronize()
        started = time.perf_counter()
        loss = subject.engine.loss(batch, batch.weights / len(batch.labels))
        loss.backward()
        optimiser.clip(1.0)
        optimiser.step()
        optimiser.zero_grad()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        held.append(torch.cuda.memory_allocated())
        losses.append(float(loss.detach()))
    counted = seconds[WARM_UP:] or seconds
    return {
        "tokens_per_second": round(tokens / statistics.median(counted)),
        "range": [round(tokens / max(counted)), round(tokens / min(counted))],
        "first_step_seconds": round(seconds[0], 2),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "grown_bytes": held[-1] - held[min(WARM_UP, len(held)) - 1],
        "losses": [round(losses[0], 4), round(losses[-1], 4)],
    }


def pack(tokens: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    half = DOCUMENT // 2
    documents = [
        Example("", torch.randint(32_000, (DOCUMENT,), generator=generator).tolist(), [0.0] * half + [1.0] * half)
        for _ in range(tokens // DOCUMENT)
    ]
    [batch] = microbatches(documents, tokens)
    return batch


if __name__ == "__main__":
    main()
