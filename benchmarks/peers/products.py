"""The bare matrix products of a LoRA step on the task, and nothing else: the time below which no exact step can get.

    python benchmarks/peers/products.py fp32|bf16 TASK_JSON

For every adapted linear: the base's product forwards, and backwards for the gradient of its input; the six products of
the low-rank pair. For the head: logits of supervised tokens, and their gradient's way back. Nothing needs the gradient
of the first layer's q, k and v inputs. The large products write into memory that is there already, in microbatches
packed as Lorica packs. Attention's own products are timed beside them: two forwards, five backwards that compute the
scores again, of every head over half of a document's keys, which is what a query sees on average. Norms, activations
and attention's exponentials are left out.
"""

import sys
import time
from dataclasses import dataclass

import torch
from task import SMOLLM2_135M, Task, documents, report
from torch import Tensor

from lorica.data import Example, microbatches


@dataclass
class Linear:
    """A frozen matrix (out, in) and its pair. `needs_input`: whether the gradient of its input is wanted."""

    weight: Tensor
    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    needs_input: bool

    def multiply(self, x: Tensor, y: Tensor, dx: Tensor) -> int:
        """Forwards from `x` (tokens, in) to `y` (tokens, out), and back to `dx`; returns the operations done. Nothing
        is computed from another matrix's results: a chain of small random products ends in denormal numbers, which
        processors multiply a hundred times slower."""
        low = torch.mm(x, self.a.t())
        torch.mm(x, self.weight.t(), out=y)
        y.addmm_(low, self.b.t())
        d_low = torch.mm(y, self.b)
        torch.mm(y.t(), low)
        torch.mm(d_low.t(), x)
        if not self.needs_input:
            return 2 * len(x) * (self.weight.numel() + 2 * self.a.numel() + 3 * self.b.numel())
        torch.mm(y, self.weight, out=dx)
        dx.addmm_(d_low, self.a)
        return 2 * len(x) * (2 * self.weight.numel() + 3 * self.a.numel() + 3 * self.b.numel())


def linears(layers: int, rank: int, dtype: torch.dtype) -> list[Linear]:
    """Those of all layers, each with weights of its own: a step reads every weight from memory."""
    sizes = SMOLLM2_135M
    hidden, inner, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_attention_heads"]
    shared = hidden // heads * sizes["num_key_value_heads"]
    attention = [(hidden, hidden), (shared, hidden), (shared, hidden), (hidden, hidden)]
    shapes = [*attention, (inner, hidden), (inner, hidden), (hidden, inner)]
    return [
        Linear(*(small(*shape, dtype=dtype) for shape in ((out, size), (rank, size), (out, rank))), layer > 0 or i > 2)
        for layer in range(layers)
        for i, (out, size) in enumerate(shapes)
    ]


def small(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(rows, columns) / columns**0.5).to(dtype)


def main() -> None:
    dtype, task = {"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[1]], Task.from_json(sys.argv[2])
    torch.set_num_threads(task.threads)
    rows = [Example("", row["input_ids"], [float(label != -100) for label in row["labels"]]) for row in documents(task)]
    layers = linears(task.layers, task.rank, dtype)
    head = small(int(SMOLLM2_135M["vocab_size"]), int(SMOLLM2_135M["hidden_size"]), dtype)
    widths = {size for layer in layers for size in layer.weight.shape}
    seconds, cpu_seconds, attention_cpu_seconds, operations = [], [], [], []
    for step in range(task.steps):
        batches = microbatches(rows[step * task.batch_size :][: task.batch_size], task.microbatch_tokens)
        inputs, outputs, gradients = (
            [{width: small(batch.input_ids.numel(), width, dtype) for width in widths} for batch in batches]
            for _ in range(3)
        )
        started, cpu_started, done = time.perf_counter(), time.process_time(), 0
        for batch, x, y, dx in zip(batches, inputs, outputs, gradients, strict=True):
            for layer in layers:
                out, size = layer.weight.shape
                done += layer.multiply(x[size], y[out], dx[size])
            done += head_products(x[head.shape[1]][: len(batch.labels)], dx[head.shape[1]], head)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        operations.append(done)
        documents_ = [length for batch in batches for length in batch.lengths]
        attention_cpu_seconds.append(attention_products(documents_, task.layers, dtype))
    more = {"operations": operations, "attention_cpu_seconds": attention_cpu_seconds}
    report([], seconds, cpu_seconds, {"torch": torch.__version__}, **more)


def head_products(hidden: Tensor, gradient: Tensor, head: Tensor) -> int:
    """In chunks of 32 MiB of logits, as Lorica takes them on a CPU."""
    rows = max(1, (32 << 20) // (4 * len(head)))
    buffer = hidden.new_empty(rows, len(head))
    for start in range(0, len(hidden), rows):
        chunk = hidden[start : start + rows]
        logits = torch.mm(chunk, head.t(), out=buffer[: len(chunk)])
        torch.mm(logits, head, out=gradient[start : start + len(chunk)])
    return 2 * 2 * len(hidden) * head.numel()


def attention_products(lengths: list[int], layers: int, dtype: torch.dtype) -> float:
    """Seconds of the process for documents of these lengths."""
    heads = int(SMOLLM2_135M["num_attention_heads"])
    dim = int(SMOLLM2_135M["hidden_size"]) // heads
    taken = 0.0
    for length in lengths:
        q, d_out = (torch.randn(heads, length, dim).to(dtype) for _ in range(2))
        k = torch.randn(heads, max(1, length // 2), dim).to(dtype)
        scores, d_scores = (torch.bmm(q, k.mT) for _ in range(2))  # (heads, length, keys)
        out, d_k = torch.empty_like(q), torch.empty_like(k)
        started = time.process_time()
        for _ in range(layers):
            for _ in range(2):
                torch.bmm(q, k.mT, out=scores)
            torch.bmm(d_out, k.mT, out=d_scores)
            for _ in range(2):
                torch.bmm(scores, k, out=out)
                torch.bmm(scores.mT, q, out=d_k)
        taken += time.process_time() - started
    return taken


if __name__ == "__main__":
    main()
