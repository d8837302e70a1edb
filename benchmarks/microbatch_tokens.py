"""Training tokens a second against the tokens of a microbatch, on this machine, for one base.

    python benchmarks/microbatch_tokens.py [--base PATH] [--dtype fp32] [--repeats 5]

The rows are random tokens, half of them supervised, 50 to 150 tokens long; every size does the same rows. Sizes are
interleaved so that a noisy machine disturbs all of them alike; the table gives the median and the range.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

from lorica.data import Example, microbatches
from lorica.demo.settings import BASE
from lorica.lora import attach
from lorica.models import load
from lorica.training.subject import subject_of

SIZES = (128, 256, 512, 1024, 2048)


def examples(vocabulary: int, rows: int = 32) -> list[Example]:
    draw = random.Random(0)
    lengths = [draw.randint(50, 150) for _ in range(rows)]
    return [
        Example("", [draw.randrange(vocabulary) for _ in range(n)], [0.0] * (n // 2) + [1.0] * (n - n // 2))
        for n in lengths
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    base = load(arguments.base, dtype=arguments.dtype)
    engine = subject_of(base.model, attach(base)).engine
    rows = examples(base.model.config.vocab_size)
    tokens = sum(len(row.input_ids) for row in rows)
    speeds: dict[int, list[float]] = {size: [] for size in SIZES}
    for repeat in range(arguments.repeats + 1):
        for size in SIZES:
            batches = [batch.to(base.device) for batch in microbatches(rows, size)]
            started = time.perf_counter()
            for batch in batches:
                engine.loss(batch, batch.weights).backward()
            if repeat:  # the first round warms up
                speeds[size].append(tokens / (time.perf_counter() - started))
    for size, found in speeds.items():
        told = {"tokens_per_microbatch": size, "tokens_per_second": round(statistics.median(found))}
        print(json.dumps(told | {"lowest": round(min(found)), "highest": round(max(found))}))


if __name__ == "__main__":
    main()
