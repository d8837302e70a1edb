"""Time and memory of a LoRA step against the tokens of its pack: python benchmarks/growth.py TASK_JSON REPEATS

For packs of one document and of documents of 128 tokens: seconds of a forward and backward pass over the task's model,
and of the attention inside it, measured alone. Memory: how far the process's resident peak rises over the pass, beside
the bytes that the layers say they keep. Prints a JSON list, a point a size.
"""

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import torch
from task import Task

from lorica import attach, load
from lorica.data import Example, microbatches
from lorica.data.batches import Batch
from lorica.kernels import Documents, attention, attention_backward
from lorica.lean.policy import KEEP_ALL, LayerShape, saved_bytes
from lorica.training.subject import Subject, subject_of

SIZES = (128, 256, 512, 1024, 2048)


def main() -> None:
    task, repeats = Task.from_json(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(task.threads)
    base = load(task.model, dtype="fp32", device="cpu")
    subject = subject_of(base.model, attach(base, r=task.rank, alpha=task.alpha, seed=0))
    seconds: dict[tuple[int, str], dict[str, list[float]]] = {}
    peaks: dict[int, int] = {}
    for repeat in range(repeats + 1):  # the first warms up; memory is taken there, ascending
        for size in SIZES:
            for kind, lengths in (("one", [size]), ("many", [128] * (size // 128))):
                batch = pack(lengths)
                held = forget_peak()
                step = timed(lambda batch=batch: train(subject, batch))
                if repeat == 0 and kind == "one":
                    peaks[size] = peak() - held
                attend = timed(lambda lengths=lengths: attention_alone(subject.model.config, lengths))
                if repeat:
                    found = seconds.setdefault((size, kind), {"step": [], "attention": []})
                    found["step"].append(step)
                    found["attention"].append(attend)
    print(json.dumps([point(size, seconds, peaks, subject.model.config) for size in SIZES]))


def point(size: int, seconds: dict[tuple[int, str], Any], peaks: dict[int, int], config: Any) -> dict[str, Any]:
    medians = {
        kind: {part: statistics.median(values) for part, values in seconds[size, kind].items()}
        for kind in ("one", "many")
    }
    dim = config.hidden_size // config.num_attention_heads
    shape = LayerShape(
        hidden=config.hidden_size,
        query=config.hidden_size,
        key=dim * config.num_key_value_heads,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
    )
    kept = config.num_hidden_layers * saved_bytes(shape, KEEP_ALL, size, torch.float32)
    return {"tokens": size, "peak_bytes": peaks[size], "formula_bytes": kept} | medians


def pack(lengths: list[int]) -> Batch:
    """Random tokens, the second half of each document supervised."""
    generator = torch.Generator().manual_seed(0)
    documents = [
        Example(
            "",
            torch.randint(40_000, (length,), generator=generator).tolist(),
            [0.0] * (length // 2) + [1.0] * (length - length // 2),
        )
        for length in lengths
    ]
    [batch] = microbatches(documents, sum(lengths))
    return batch


def train(subject: Subject, batch: Batch) -> None:
    subject.engine.loss(batch, batch.weights / batch.weights.sum()).backward()


def attention_alone(config: Any, lengths: list[int]) -> None:
    """Forwards and backwards, as often as there are layers."""
    tokens, dim = sum(lengths), config.hidden_size // config.num_attention_heads
    q = torch.randn(tokens, config.num_attention_heads, dim)
    k, v = torch.randn(2, tokens, config.num_key_value_heads, dim).unbind()
    documents = Documents.of(lengths, "cpu")
    for _ in range(config.num_hidden_layers):
        out, lse = attention(q, k, v, documents, dim**-0.5)
        attention_backward(q, q, k, v, out, lse, documents, dim**-0.5)


def timed(compute: Callable[[], None]) -> float:
    """Seconds of the process's own time: another process's turn on the same cores is not counted."""
    started = time.process_time()
    compute()
    return time.process_time() - started


def forget_peak() -> int:
    """Give freed memory back to the system, and count the peak of what is resident from here; returns what that is."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak()


def peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    main()
