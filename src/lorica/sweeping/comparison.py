"""The trials of a sweep beside each other, on the same held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lorica.evaluation.bootstrap import paired_interval, sum_by_cluster, verdict
from lorica.evaluation.scores import Scores
from lorica.sweeping.trial import TrialState


def comparison(trials: Sequence[TrialState], winner: str) -> list[dict[str, Any]]:
    """A row for each trial, the furthest and best first: its settings, held-out loss, and the 95 % interval of its
    difference from the winner at the last step where both were measured."""
    best = next(trial for trial in trials if trial.name == winner)
    rows = [_row(trial, best) for trial in trials]
    return sorted(rows, key=lambda row: (row["failed"] is not None, -row["steps"], _order(row["held_out_loss"])))


def _row(trial: TrialState, best: TrialState) -> dict[str, Any]:
    found = trial.checkpoint()
    progress = found[0] if found is not None else trial.progress
    shared = [step for step in trial.scores if step in best.scores]
    interval = _interval(best.scores[max(shared)], trial.scores[max(shared)]) if shared and trial is not best else None
    return {
        "name": trial.name,
        "settings": trial.trial.values,
        "held_out_loss": _number(trial.last_loss),
        "by_step": {str(step): _number(scores.loss) for step, scores in sorted(trial.scores.items())},
        "difference": interval,
        "compared_at_step": max(shared) if shared else None,
        "steps": progress.step,
        "seconds": progress.seconds,
        "failed": trial.failed,
    }


def _interval(best: Scores, other: Scores) -> dict[str, Any]:
    """Of the other's loss less the best's, rows of one prompt resampled together."""
    one, two = (sum_by_cluster(scores.loss_statistics, scores.clusters) for scores in (best, other))
    interval = paired_interval(one, two)
    return {**asdict(interval), "verdict": verdict(interval, lower_is_better=True)}


def _number(loss: float | None) -> float | None:
    return loss if loss is not None and abs(loss) < float("inf") else None


def _order(loss: float | None) -> float:
    return float("inf") if loss is None else loss
