"""Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943): all trials run a little, the best
share of them runs on, and so forth until the best few finish. Every trial keeps the schedule of its whole run, so that
one that goes on is the run it would have been."""

from __future__ import annotations

import math
from collections.abc import Mapping

SHARE = 3  # of the trials one in so many goes on
LEAST_SHARE = 0.1  # of a run's steps, before the first cut: earlier losses say too little


def rungs(trials: int, steps: int, share: int = SHARE) -> list[int]:
    """The steps after which trials are compared, the last of them being the end; [steps] alone where nothing is cut."""
    found = [steps]
    while share > 1 and trials > 1:
        trials = survivors(trials, share)
        earlier = found[0] // share
        if earlier < max(1, math.ceil(steps * LEAST_SHARE)):
            break
        found.insert(0, earlier)
    return found


def survivors(trials: int, share: int = SHARE) -> int:
    """How many of so many go on: one at least."""
    return max(1, math.ceil(trials / share)) if share > 1 else trials


def best(losses: Mapping[str, float | None], count: int) -> list[str]:
    """The `count` names of the lowest losses, the lowest first; what has no finite loss is never among them."""
    finite = [(loss, name) for name, loss in losses.items() if loss is not None and math.isfinite(loss)]
    return [name for _, name in sorted(finite)[:count]]
