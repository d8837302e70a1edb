"""Which rows a training step uses: a pure function of the step, so a resumed run needs no cursor but its step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def step_rows(rows: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The rows of step number `step` (from 0).

    Training reads an endless chain of epochs, each a permutation of all rows drawn from (seed, epoch); step s covers
    positions s * batch_size up to (s + 1) * batch_size of it. So each row is used exactly once an epoch, also where
    `batch_size` does not divide `rows` or exceeds it.
    """
    assert rows > 0 and batch_size > 0 and step >= 0
    return [int(_epoch(rows, at // rows, seed)[at % rows]) for at in range(step * batch_size, (step + 1) * batch_size)]


@lru_cache(maxsize=2)  # a step may reach from one epoch into the next
def _epoch(rows: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(rows)
