"""How full microbatches are, over real data sets: python benchmarks/packing.py DATA_FOLDER TOKENIZER_FOLDER

A step packs its own rows only, so that packing cannot change a result; the column of 1,024 rows is what best-fit
decreasing reaches where the batch allows; "of optimum" says how near steps of 16 rows are to the fewest microbatches
that could hold them. Beside them: rows taken in order until the next does not fit, and a batch padded to its longest
row, as trainers without packing do. Lorica pads nothing: a microbatch that is not full costs less.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data_sets import DATA_SETS
from transformers import AutoTokenizer

from lorica.data import StoredExamples, pack, step_rows
from lorica.data.read import survey

CAPACITY = 1024
BATCHES = (16, 64, 256)
WINDOW = 1024
Packer = Callable[[list[int], int], list[list[int]]]


def in_order(lengths: list[int], capacity: int) -> list[list[int]]:
    """Rows as they come; a new microbatch where the next row does not fit."""
    bins: list[list[int]] = [[]]
    for index, length in enumerate(lengths):
        if bins[-1] and sum(lengths[member] for member in bins[-1]) + length > capacity:
            bins.append([])
        bins[-1].append(index)
    return bins


def fullness(examples: StoredExamples, batch_size: int, packer: Packer = pack) -> float:
    """Tokens of all steps of an epoch over what their microbatches hold."""
    steps = [chosen.tolist() for chosen in _steps(examples, batch_size)]
    return sum(map(sum, steps)) / (CAPACITY * sum(len(packer(step, CAPACITY)) for step in steps))


def of_optimum(examples: StoredExamples, batch_size: int) -> float:
    """The fewest microbatches that could hold each step's tokens, over those that it takes."""
    steps = [chosen.tolist() for chosen in _steps(examples, batch_size)]
    return sum(-(-sum(step) // CAPACITY) for step in steps) / sum(len(pack(step, CAPACITY)) for step in steps)


def padded(examples: StoredExamples, batch_size: int) -> float:
    """The same for batches padded to their longest row."""
    steps = _steps(examples, batch_size)
    return sum(int(step.sum()) for step in steps) / sum(int(step.max()) * len(step) for step in steps)


def _steps(examples: StoredExamples, batch_size: int) -> list[np.ndarray]:
    tokens, rows = examples.tokens, len(examples)
    whole = max(1, rows // batch_size)  # steps of one epoch, without the one that reaches into the next
    return [tokens[step_rows(rows, min(batch_size, rows), step, 0)] for step in range(whole)]


def main() -> None:
    folder, tokenizer = Path(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2])
    batches = "".join(f"{f'{batch} rows':>10}" for batch in BATCHES)
    rest = f"{'1,024 rows':>12}{'of optimum':>12}{'in order':>10}{'padded':>8}"
    print(f"{'set':<20} {'examples':>8} {'median':>6}{batches}{rest}")
    for data in DATA_SETS:
        read = survey(data.config(folder, max_length=CAPACITY, too_long="split"), tokenizer, CAPACITY)
        if not read.examples:
            print(f"{data.name:<20} {read.findings[0]}")
            continue
        steps = "".join(f"{fullness(read.examples, batch):>10.1%}" for batch in BATCHES)
        print(
            f"{data.name:<20} {len(read.examples):>8,} {int(np.median(read.examples.tokens)):>6,}{steps}"
            f"{fullness(read.examples, WINDOW):>12.1%}{of_optimum(read.examples, BATCHES[0]):>12.1%}"
            f"{fullness(read.examples, WINDOW, in_order):>10.1%}{padded(read.examples, BATCHES[0]):>8.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
