"""The learning rate at each step."""

import math


def total_steps(rows: int, batch_size: int, epochs: float, steps: int | None) -> int:
    """Optimiser steps of a run: as given, or as many as `epochs` passes over `rows` need, the last one rounded up."""
    return steps if steps is not None else max(1, math.ceil(epochs * rows / batch_size - 1e-9))


def warmup_steps(total: int, warmup: float) -> int:
    """A share of all steps if below 1, else a number of steps. Raises ValueError for more than there are."""
    if warmup > max(1, total):
        raise ValueError(
            f"train.warmup is {warmup:g} steps, and the run has {total:,}: it would end before its learning rate is "
            "reached. Make the warm-up shorter, give a share below 1, or train for longer."
        )
    return round(total * warmup) if warmup < 1 else int(warmup)


def learning_rate_factor(step: int, total: int, schedule: str, warmup: int) -> float:
    """The share of the peak learning rate at `step` (from 0).

    Rises linearly over `warmup` steps to 1 at the step after them, then falls towards zero (linear, cosine) or stays
    (constant). The first step has a share of 1 / (warmup + 1), the last one more than zero: no step is spent on a
    learning rate of zero.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)  # 0 at the peak, below 1 at the last step
    return {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}[schedule]
