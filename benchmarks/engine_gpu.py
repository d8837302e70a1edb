"""A LoRA step at the shape of Llama-3-8B on one GPU: speed, memory, and whether memory stays what it was.

    python benchmarks/engine_gpu.py [--layers 32] [--steps 200] [--out RESULT.json]

Random weights in bf16, r 16 on all linear layers, microbatches of 4,096 tokens in documents of 512, half of them
supervised, a whole optimiser step each. Speed is the median of steps 20 and later; a leak is memory after the last step
that was not there after the twentieth.
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
from lorica.training.optimiser import Optimiser
from lorica.training.subject import Subject, subject_of

LLAMA_3_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
}
TOKENS, DOCUMENT, WARM_UP = 4096, 512, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No GPU that torch sees; the processor's benchmark is benchmarks/engine.py.")
    subject = random_llama(arguments.layers)
    result = surroundings() | {"gpu": torch.cuda.get_device_name(), "layers": arguments.layers}
    result |= {"engine": subject.engine.description} | measure(subject, arguments.steps)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def random_llama(layers: int) -> Subject:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**LLAMA_3_8B, num_hidden_layers=layers))
    torch.set_default_dtype(torch.float32)
    return subject_of(model, attach(model, r=16, alpha=32, seed=0))


def measure(subject: Subject, steps: int) -> dict[str, Any]:
    optimiser = Optimiser(subject.parameters, TrainConfig(), 1e-4, joined=True)
    batch = pack().to(subject.device)
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
        "tokens_per_second": round(TOKENS / statistics.median(counted)),
        "range": [round(TOKENS / max(counted)), round(TOKENS / min(counted))],
        "first_step_seconds": round(seconds[0], 2),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "grown_bytes": held[-1] - held[min(WARM_UP, len(held)) - 1],
        "losses": [round(losses[0], 4), round(losses[-1], 4)],
    }


def pack() -> Batch:
    generator = torch.Generator().manual_seed(0)
    half = DOCUMENT // 2
    documents = [
        Example("", torch.randint(100_000, (DOCUMENT,), generator=generator).tolist(), [0.0] * half + [1.0] * half)
        for _ in range(TOKENS // DOCUMENT)
    ]
    [batch] = microbatches(documents, TOKENS)
    return batch


if __name__ == "__main__":
    main()
