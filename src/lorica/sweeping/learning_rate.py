"""`train.lr: auto`: the run begins as three, side by side, around the rule of the model's width, and goes on as one.

Each lane is the run that its rate alone would have been, in the run's own schedule, so nothing of the one that goes on
is lost: what the search costs is the others. They are compared once the warm-up is well over, because a rate that is
too high shows only after some dozen steps at its full height: lanes that decay within a dozen steps prefer several
times the rate that the run can bear, and how many times differs from task to task (docs/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from lorica.sweeping.halving import best
from lorica.sweeping.passes import steps_of, train_in_passes
from lorica.sweeping.trial import TrialState
from lorica.training.interrupt import Interrupted, stop_on_signal
from lorica.training.run_folder import RunFolder
from lorica.training.schedule import warmup_steps

SHARE = 0.15  # of the run's tokens, all lanes that do not go on together
# Of the rule; up by less than down, because the best rate at this point of a run is mostly above that at its end.
FACTORS = (1 / 2, 1.0, math.sqrt(2))
LEAST_STEPS = 8  # of a lane after its warm-up: fewer say nothing


def search_learning_rate(prepared: Prepared, run: RunFolder, watcher: Watcher) -> dict[str, Any]:
    """What was tried, what it took, and the rate that was chosen, as `learning_rate.json` of the run's folder holds it;
    `goes_on` is the folder, in the run's, of the lane that the run is to go on from.

    A search that was stopped goes on where it stood, and one that is done is read. Raises ValueError where the run is
    too short for one or every rate diverges, `Interrupted` after a signal.
    """
    if run.search.exists():
        return read_json(run.search)
    trials, steps = search_trials(prepared, run), search_steps(prepared)
    fit_packing(prepared, watcher)
    rates = ", ".join(f"{_rate(trial):.2g}" for trial in trials)
    watcher.notice(f"searching the learning rate: {rates}, {steps} steps each, after which the best goes on")
    for trial in trials:
        trial.load()
    with stop_on_signal() as request:
        if not train_in_passes(prepared, trials, lambda trial: steps, len(trials), watcher, request):
            number, request.number = request.number, 0
            raise Interrupted(run.path, None, number)
    found = _chosen(prepared, trials, steps, run)
    write_json(run.search, found)
    watcher.notice(f"learning rate {found['chosen']:.3g}: {found['reason']}")
    return found


def search_steps(prepared: Prepared) -> int:
    """The most steps that the lanes can take within the share; all see the rows that the run begins with. Raises
    ValueError where they are too few."""
    spent, losers = np.cumsum(_tokens_by_step(prepared)), len(FACTORS) - 1
    steps = int(np.searchsorted(spent * losers, SHARE * spent[-1], side="right"))
    warmup = warmup_steps(len(spent), prepared.resolved.config.train.warmup)
    if steps < warmup + LEAST_STEPS:
        raise ValueError(
            f"train.lr: auto spends at most {SHARE:.0%} of a run's tokens on the rates that lose, which for "
            f"{len(spent)} steps is {steps} steps each, {warmup} of them warm-up: too few to say anything (at least "
            f"{LEAST_STEPS} after the warm-up). Leave train.lr out, which takes the rule of the model's width, give a "
            "number, train for longer, or make train.warmup shorter."
        )
    return steps


def search_trials(prepared: Prepared, run: RunFolder) -> list[TrialState]:
    """The lanes, each the run itself at a rate of its own."""
    config = prepared.resolved.config
    rule = _rule(prepared)
    found = []
    for number, factor in enumerate(FACTORS):
        rate = float(f"{rule * factor:.3g}")
        train = config.train.model_copy(update={"lr": rate})
        resolved = replace(prepared.resolved, config=config.model_copy(update={"train": train}))
        trial = Trial(number, (f"train.lr={rate}",))
        found.append(TrialState(trial, resolved, run.path / "search" / trial.name))
    return found


def _tokens_by_step(prepared: Prepared) -> np.ndarray:
    """Of the whole run, (steps,)."""
    train, rows = prepared.resolved.config.train, prepared.rows.training
    tokens = rows.tokens
    steps = range(steps_of(prepared.resolved, prepared))
    return np.array([tokens[step_rows(len(rows), train.batch_size, step, train.seed)].sum() for step in steps])


def _chosen(prepared: Prepared, trials: Sequence[TrialState], steps: int, run: RunFolder) -> dict[str, Any]:
    measured = {trial.name: _measured(trial, prepared, steps) for trial in trials}
    losses = {name: float(ratio(rows.sum(0))) for name, rows in measured.items()}
    by = "held-out loss" if prepared.rows.held_out else "training loss (no rows are held out)"
    winner, reason = _winner(trials, measured, losses, f"{by} after {steps} steps")
    losers = [trial for trial in trials if trial is not winner]
    tokens = sum(trial.progress.tokens for trial in losers)
    return {
        "chosen": _rate(winner),
        "reason": reason,
        "rule": _rule(prepared),
        "goes_on": str(winner.folder.relative_to(run.path)),
        "loss": by,
        "rows": [_row(trial, losses[trial.name]) for trial in trials],
        "tokens": tokens,
        "share_of_tokens": tokens / int(_tokens_by_step(prepared).sum()),
        "seconds": sum(trial.progress.seconds for trial in losers),
    }


def _winner(
    trials: Sequence[TrialState], measured: dict[str, np.ndarray], losses: dict[str, float], what: str
) -> tuple[TrialState, str]:
    """The lane that goes on, and why. The rule stands unless another rate is clearly better: too high a rate costs more
    than too low a one, and early losses are noisy."""
    lowest = best(losses, 1)
    if not lowest:
        reasons = "; ".join(f"{trial.name}: {trial.failed}" for trial in trials)
        raise ValueError(
            f"every learning rate that train.lr: auto tried ended in a loss that is no number ({reasons}). Look at the "
            "rows with `lorica data check`, or give train.lr a lower number."
        )
    found, rule = next(trial for trial in trials if trial.name == lowest[0]), trials[FACTORS.index(1.0)]
    if found is rule:
        return rule, f"the rule's rate has the lowest {what}"
    if not math.isfinite(losses[rule.name]):
        return found, f"the rule's rate diverges, and this one has the lowest {what}"
    if verdict(paired_interval(measured[rule.name], measured[found.name]), lower_is_better=True) != "better":
        return rule, f"no other has a clearly lower {what} than the rule's rate"
    beyond = "lower" if trials.index(found) < trials.index(rule) else "higher"
    return found, f"its {what} is clearly below that of the rule's rate; {beyond} ones were not tried"


def _measured(trial: TrialState, prepared: Prepared, steps: int) -> np.ndarray:
    """Sums of losses and weights, (rows, 2), of the held-out prompts, or of the last quarter of the steps where nothing
    is held out: all lanes train on the same rows. NaN where the lane has none."""
    if trial.failed is not None:
        return np.full((1, 2), np.nan)
    if prepared.rows.held_out:
        scores = trial.scores[steps]
        return sum_by_cluster(scores.loss_statistics, scores.clusters)
    return np.array([[record["loss"], 1.0] for record in trial.records(steps)[3 * steps // 4 :]], dtype=np.float64)


def _row(trial: TrialState, loss: float) -> dict[str, Any]:
    """As a row of a sweep."""
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
