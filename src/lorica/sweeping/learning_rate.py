"""`train.lr: auto`: a few short runs side by side around the rule of the model's width, and the run's rate from them.

Each lane is a whole run in small: its own warm-up and decay over the few steps it has, since a lane that stopped early
in the run's schedule would hardly leave the warm-up. The best rate of a short run is higher than that of a long one,
so what the lanes say is brought to the run's length by a power of the steps (`HORIZON`); lanes are laid around where
the rule is in that shortened world. The winner is started anew, for a lane has decayed to a rate of zero, and at a peak
that is not the run's: continued, the run would be none that its settings describe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from lorica.config import Resolved, default_learning_rate
from lorica.config.learning_rate import LARGEST_RATE
from lorica.data.order import step_rows
from lorica.files import read_json, write_json
from lorica.run.execute import fit_packing
from lorica.run.prepare import Prepared
from lorica.run.watch import Watcher
from lorica.sweeping.grid import Trial
from lorica.sweeping.halving import best
from lorica.sweeping.passes import steps_of, train_in_passes
from lorica.sweeping.trial import TrialState
from lorica.training.interrupt import Interrupted, stop_on_signal
from lorica.training.run_folder import RunFolder
from lorica.training.schedule import warmup_steps

SHARE = 0.15  # of the run's tokens, all lanes together
FACTORS = (1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # of the rule
HORIZON = 1 / 3  # the best rate falls with this power of the steps (benchmarks/learning_rate.py)
LEAST_STEPS = 4  # of a lane: fewer say nothing
TRIALS = "search"


def search_learning_rate(prepared: Prepared, run: RunFolder, watcher: Watcher) -> dict[str, Any]:
    """What was tried, what it took, and the rate that was chosen, as `learning_rate.json` of the run's folder holds it.

    A search that was stopped goes on where it stood, and one that is done is read. Raises ValueError where the run is
    too short for one or every rate diverges, `Interrupted` after a signal.
    """
    if run.search.exists():
        return read_json(run.search)
    trials = search_trials(prepared, run.path / TRIALS)
    fit_packing(prepared, watcher)
    steps = steps_of(trials[0].resolved, prepared)
    rates = ", ".join(f"{_rate(trial):.2g}" for trial in trials)
    watcher.notice(f"searching the learning rate: {rates}, {steps} steps each")
    for trial in trials:
        trial.load()
    with stop_on_signal() as request:
        if not train_in_passes(prepared, trials, lambda trial: steps, len(trials), watcher, request):
            number, request.number = request.number, 0
            raise Interrupted(run.path, None, number)
    found = _chosen(prepared, trials, steps)
    write_json(run.search, found)
    watcher.notice(f"learning rate {found['chosen']:.3g}: {found['reason']}")
    return found


def search_trials(prepared: Prepared, folder: Path) -> list[TrialState]:
    """The short runs. Raises ValueError where the run has too few steps for them."""
    steps = _affordable_steps(prepared, len(FACTORS))
    resolved, whole = prepared.resolved, steps_of(prepared.resolved, prepared)
    if steps < LEAST_STEPS:
        raise ValueError(
            f"train.lr: auto spends at most {SHARE:.0%} of a run's tokens on {len(FACTORS)} short runs, which for "
            f"{whole} steps is {steps} steps each, too few to say anything (at least {LEAST_STEPS}). Leave train.lr "
            "out, which takes the rule of the model's width, give a number, or train for longer."
        )
    middle = _rule(prepared) * (whole / steps) ** HORIZON
    rates = sorted({float(f"{min(middle * factor, LARGEST_RATE):.3g}") for factor in FACTORS})
    trials = [Trial(number, (f"train.lr={rate}",)) for number, rate in enumerate(rates)]
    return [
        TrialState(trial, _shortened(resolved, rate, steps, whole), folder / trial.name)
        for trial, rate in zip(trials, rates, strict=True)
    ]


def _shortened(resolved: Resolved, rate: float, steps: int, whole: int) -> Resolved:
    """The run in small: as large a part of it is warm-up."""
    train = resolved.config.train
    warmup = warmup_steps(whole, train.warmup) / whole
    train = train.model_copy(update={"lr": rate, "steps": steps, "warmup": min(warmup, 0.99)})
    return replace(resolved, config=resolved.config.model_copy(update={"train": train}))


def _affordable_steps(prepared: Prepared, lanes: int) -> int:
    """The most steps that so many lanes can take within the share; all see the rows that the run begins with."""
    spent = np.cumsum(_tokens_by_step(prepared))
    return int(np.searchsorted(spent * lanes, SHARE * spent[-1], side="right"))


def _tokens_by_step(prepared: Prepared) -> np.ndarray:
    """Of the whole run, (steps,)."""
    train, rows = prepared.resolved.config.train, prepared.rows.training
    tokens = rows.tokens
    steps = range(steps_of(prepared.resolved, prepared))
    return np.array([tokens[step_rows(len(rows), train.batch_size, step, train.seed)].sum() for step in steps])


def _chosen(prepared: Prepared, trials: Sequence[TrialState], steps: int) -> dict[str, Any]:
    losses = {trial.name: _loss(trial, prepared, steps) for trial in trials}
    ranked = best(losses, 1)
    if not ranked:
        reasons = "; ".join(f"{trial.name}: {trial.failed}" for trial in trials)
        raise ValueError(
            f"every learning rate that train.lr: auto tried ended in a loss that is no number ({reasons}). Look at the "
            "rows with `lorica data check`, or give train.lr a lower number."
        )
    whole = steps_of(prepared.resolved, prepared)
    lowest, at_edge = _lowest_point([(_rate(trial), losses[trial.name]) for trial in trials])
    shift = (steps / whole) ** HORIZON
    chosen = float(f"{min(lowest * shift, LARGEST_RATE):.3g}")
    total = int(_tokens_by_step(prepared).sum())
    tokens = sum(trial.progress.tokens for trial in trials)
    by = "held-out loss" if prepared.rows.held_out else "training loss, since no rows are held out"
    reason = f"{len(trials)} short runs have the lowest {by} at {lowest:.3g}, times {shift:.2f} for {whole} steps"
    return {
        "chosen": chosen,
        "reason": reason + (f", and it is at the {at_edge} end of what was tried" if at_edge else ""),
        "rule": _rule(prepared),
        "lowest": lowest,
        "shift": shift,
        "loss": by,
        "rows": [_row(trial, losses[trial.name]) for trial in trials],
        "tokens": tokens,
        "share_of_tokens": tokens / total,
        "seconds": sum(trial.progress.seconds for trial in trials),
    }


def _lowest_point(points: Sequence[tuple[float, float | None]]) -> tuple[float, str | None]:
    """Where a parabola through the lowest point and its neighbours, over the logarithm of the rate, is lowest, and at
    which end of the points that is, if at one: then it is that point itself, as where a neighbour has no loss."""
    finite = [(math.log(rate), loss) for rate, loss in points if loss is not None and math.isfinite(loss)]
    at = min(range(len(finite)), key=lambda number: finite[number][1])
    rate = math.exp(finite[at][0])
    if at == 0:
        return rate, "lower"
    if at == len(finite) - 1:
        return rate, "upper" if len(finite) == len(points) else None
    (left, a), (middle, b), (right, c) = finite[at - 1 : at + 2]
    # Vertex of the parabola through three points; the denominator is above zero at a strict minimum.
    up, down = (middle - left) * (b - c), (middle - right) * (b - a)
    if up == down:
        return rate, None
    vertex = middle - 0.5 * ((middle - left) * up - (middle - right) * down) / (up - down)
    return math.exp(min(max(vertex, left), right)), None


def _loss(trial: TrialState, prepared: Prepared, steps: int) -> float | None:
    """Held-out, or of the second half of the steps where nothing is held out: all lanes train on the same rows."""
    if prepared.rows.held_out or trial.failed is not None:
        return trial.loss(steps)
    losses = [record["loss"] for record in trial.records(steps)[steps // 2 :]]
    return fmean(losses) if losses and None not in losses else None


def _row(trial: TrialState, loss: float | None) -> dict[str, Any]:
    """As a row of a sweep."""
    finite = loss if loss is not None and math.isfinite(loss) else None
    progress = trial.progress
    return {
        "settings": {"train.lr": f"{_rate(trial):g}"},
        "held_out_loss": finite,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "failed": trial.failed,
    }


def _rate(trial: TrialState) -> float:
    rate = trial.resolved.config.train.lr
    assert isinstance(rate, float)
    return rate


def _rule(prepared: Prepared) -> float:
    base = prepared.base
    return default_learning_rate(base.hidden_size, str(base.model.config.model_type), "lora")[0]
