"""`train.lr: auto`: the run begins at three rates around the rule of the model's width, and goes on with one of them.

Each lane is the run that its rate alone would have been, in the run's own schedule, so nothing of the one that goes on
is lost: what the search costs is the other two. The rule and twice the rule begin side by side; where twice is clearly
better, four times the rule is tried next, and half of it otherwise.

They are compared once the warm-up is well over, because a rate that is too high shows only after some dozen steps at
its full height: lanes that decay within a dozen steps prefer several times the rate that the run can bear, and how many
times differs from task to task (docs/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lorica.config import default_learning_rate
from lorica.data.order import step_rows
from lorica.evaluation.bootstrap import paired_interval, ratio, sum_by_cluster, verdict
from lorica.files import read_json, write_json
from lorica.run.execute import fit_packing
from lorica.run.prepare import Prepared
from lorica.run.watch import Watcher
from lorica.sweeping.grid import Trial
from lorica.sweeping.passes import steps_of, train_in_passes
from lorica.sweeping.trial import TrialState
from lorica.training.interrupt import Interrupted, stop_on_signal
from lorica.training.run_folder import RunFolder
from lorica.training.schedule import warmup_steps

SHARE = 0.15  # of the run's tokens, both lanes that do not go on together
LOSERS = 2
LEAST_STEPS = 8  # of a lane after its warm-up: fewer say nothing
NAMES = {0.5: "half the rule", 1.0: "the rule", 2.0: "twice the rule", 4.0: "four times the rule"}


def search_learning_rate(prepared: Prepared, run: RunFolder, watcher: Watcher) -> dict[str, Any]:
    """What was tried, what it took, and the rate that was chosen, as `learning_rate.json` of the run's folder holds it;
    `goes_on` is the folder, in the run's, of the lane that the run is to go on from.

    A search that was stopped goes on where it stood, and one that is done is read. Raises ValueError where the run is
    too short for one or every rate diverges, `Interrupted` after a signal.
    """
    if run.search.exists():
        return read_json(run.search)
    steps = search_steps(prepared)
    fit_packing(prepared, watcher)
    lanes: dict[float, TrialState] = {}

    def measured(*factors: float) -> list[np.ndarray]:
        added = {factor: _lane(prepared, run, factor) for factor in factors}
        _train(prepared, list(added.values()), steps, run, watcher)
        lanes.update(added)
        return [_measured(lane, prepared, steps) for lane in added.values()]

    rule, twice = measured(1.0, 2.0)
    factor, best = (2.0, twice) if clearly_better(twice, rule) else (1.0, rule)
    beyond = 4.0 if factor == 2.0 else 0.5
    if clearly_better(measured(beyond)[0], best):
        factor = beyond
    found = _found(prepared, run, lanes, factor, steps)
    write_json(run.search, found)
    watcher.notice(f"learning rate {found['chosen']:.3g}: {found['reason']}")
    return found


def search_steps(prepared: Prepared) -> int:
    """The most steps that the lanes can take within the share; all see the rows that the run begins with. Raises
    ValueError where they are too few."""
    spent = np.cumsum(_tokens_by_step(prepared))
    steps = int(np.searchsorted(spent * LOSERS, SHARE * spent[-1], side="right"))
    warmup = warmup_steps(len(spent), prepared.resolved.config.train.warmup)
    if steps < warmup + LEAST_STEPS:
        raise ValueError(
            f"train.lr: auto spends at most {SHARE:.0%} of a run's tokens on the rates that lose, which for "
            f"{len(spent)} steps is {steps} steps each, {warmup} of them warm-up: too few to say anything (at least "
            f"{LEAST_STEPS} after the warm-up). Leave train.lr out, which takes the rule of the model's width, give a "
            "number, train for longer, or make train.warmup shorter."
        )
    return steps


def _lane(prepared: Prepared, run: RunFolder, factor: float) -> TrialState:
    """The run itself, at this many times the rule's rate, from where it was left."""
    config, rate = prepared.resolved.config, float(f"{_rule(prepared) * factor:.3g}")
    train = config.train.model_copy(update={"lr": rate})
    resolved = replace(prepared.resolved, config=config.model_copy(update={"train": train}))
    trial = Trial(list(NAMES).index(factor), (f"train.lr={rate}",))
    lane = TrialState(trial, resolved, run.path / "search" / trial.name)
    lane.load()
    return lane


def _train(prepared: Prepared, lanes: Sequence[TrialState], steps: int, run: RunFolder, watcher: Watcher) -> None:
    rates = " and ".join(f"{_rate(lane):.2g}" for lane in lanes)
    watcher.notice(f"searching the learning rate: {steps} steps at {rates}")
    with stop_on_signal() as request:
        if not train_in_passes(prepared, lanes, lambda lane: steps, len(lanes), watcher, request):
            number, request.number = request.number, 0
            raise Interrupted(run.path, None, number)


def _tokens_by_step(prepared: Prepared) -> np.ndarray:
    """Of the whole run, (steps,)."""
    train, rows = prepared.resolved.config.train, prepared.rows.training
    tokens = rows.tokens
    steps = range(steps_of(prepared.resolved, prepared))
    return np.array([tokens[step_rows(len(rows), train.batch_size, step, train.seed)].sum() for step in steps])


def clearly_better(one: np.ndarray, other: np.ndarray) -> bool:
    """By the 95 % interval of the difference of two losses, each sums of losses and weights (rows, 2); what is no
    number is worse than all else.

    A rate has to be clearly better to be preferred to one nearer to the rule, because early losses are noisy and too
    high a rate costs more than too low a one.
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return bool(np.isfinite(one).all())
    return verdict(paired_interval(other, one), lower_is_better=True) == "better"


def _found(
    prepared: Prepared, run: RunFolder, lanes: Mapping[float, TrialState], chosen: float, steps: int
) -> dict[str, Any]:
    by = "held-out loss" if prepared.rows.held_out else "training loss (no rows are held out)"
    rows = [_row(lanes[factor], _measured(lanes[factor], prepared, steps)) for factor in sorted(lanes)]
    if all(row["held_out_loss"] is None for row in rows):
        reasons = "; ".join(f"{lane.name}: {lane.failed}" for lane in lanes.values())
        raise ValueError(
            f"every learning rate that train.lr: auto tried ended in a loss that is no number ({reasons}). Look at the "
            "rows with `lorica data check`, or give train.lr a lower number."
        )
    losers = [lane for factor, lane in lanes.items() if factor != chosen]
    tokens = sum(lane.progress.tokens for lane in losers)
    untried = "" if min(lanes) < chosen < max(lanes) else f"; {'lower' if chosen < 1 else 'higher'} ones were not tried"
    return {
        "chosen": _rate(lanes[chosen]),
        "reason": f"{NAMES[chosen]}, by {by} after {steps} steps{untried}",
        "rule": _rule(prepared),
        "goes_on": str(lanes[chosen].folder.relative_to(run.path)),
        "loss": by,
        "rows": rows,
        "tokens": tokens,
        "share_of_tokens": tokens / int(_tokens_by_step(prepared).sum()),
        "seconds": sum(lane.progress.seconds for lane in losers),
    }


def _measured(trial: TrialState, prepared: Prepared, steps: int) -> np.ndarray:
    """Sums of losses and weights, (rows, 2), of the held-out prompts, or of the last quarter of the steps where nothing
    is held out: all lanes train on the same rows. NaN where the lane has none."""
    if trial.failed is not None:
        return np.full((1, 2), np.nan)
    if prepared.rows.held_out:
        scores = trial.scores[steps]
        return sum_by_cluster(scores.loss_statistics, scores.clusters)
    return np.array([[record["loss"], 1.0] for record in trial.records(steps)[3 * steps // 4 :]], dtype=np.float64)


def _row(trial: TrialState, measured: np.ndarray) -> dict[str, Any]:
    """As a row of a sweep."""
    loss = float(ratio(measured.sum(0)))
    progress = trial.progress
    return {
        "settings": {"train.lr": f"{_rate(trial):g}"},
        "held_out_loss": loss if math.isfinite(loss) else None,
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
