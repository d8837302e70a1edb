"""Methods beside each other on the same held-out rows, each at its own best learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from lorica.comparing.methods import FULL
from lorica.comparing.runs import Finished
from lorica.evaluation.bootstrap import LEVEL, RESAMPLES, ratio, resampled_counts, sum_by_cluster

# What the share of an improvement means little below: the improvement of full fine-tuning, nats a token.
LEAST_IMPROVEMENT = 0.01


Tried = Mapping[float, Finished | None]  # by learning rate the run of the first seed, None where it diverged


def rows(tried: Mapping[str, Tried], chosen: Mapping[str, Sequence[Finished]]) -> list[dict[str, Any]]:
    """A row for each method, the best first. `chosen` are the runs at the best learning rate, one for each seed."""
    full = chosen.get(FULL)
    found = [_row(name, tried[name], runs, full) for name, runs in chosen.items()]
    return sorted(found, key=lambda row: row["loss"])


def _row(name: str, tried: Tried, runs: Sequence[Finished], full: Sequence[Finished] | None) -> dict[str, Any]:
    measured = [run.report["measured"] for run in runs]
    return {
        "name": name,
        "planned": False,
        "settings": {"train.lr": runs[0].plan.lr},
        "lr_curve": {f"{lr:.3g}": None if run is None else run.loss for lr, run in tried.items()},
        "loss": fmean(run.loss for run in runs),
        "loss_by_seed": {str(run.plan.seed): run.loss for run in runs},
        "base_loss": runs[0].report["before"]["loss"],
        "metrics": _mean([run.report["after"]["metrics"] for run in runs]),
        "forgetting": _mean(
            [run.report["forgetting"].get("differences", {}) for run in runs if run.report["forgetting"]]
        ),
        "share_of_full": None if full is None or name == FULL else share_of_improvement(runs, full),
        "trainable_parameters": runs[0].report["trainable_parameters"],
        "seconds": fmean(m["seconds"] for m in measured),
        "peak_memory_bytes": max(m["peak_memory_bytes"] for m in measured),
        "bytes_stored": runs[0].bytes_stored,
        "runs": [str(run.folder) for run in runs],
        "curve": [[m["step"], m["loss"]] for m in _metrics(runs[0])],
    }


def share_of_improvement(runs: Sequence[Finished], full: Sequence[Finished]) -> dict[str, Any]:
    """The share of full fine-tuning's fall in loss that these runs reach, averaged over seeds, with its 95 % interval
    over resampled held-out rows (those of one prompt together)."""
    before, one, other = (_statistics(side) for side in ([runs[0].before], _after(runs), _after(full)))
    clusters = len(before)

    def share(counts: np.ndarray) -> np.ndarray:
        base, own, most = (ratio(counts @ statistics) for statistics in (before, one, other))
        return np.asarray((base - own) / (base - most))

    whole = np.ones((1, clusters))
    improvement = float((ratio(whole @ before) - ratio(whole @ other))[0])
    if clusters < 2 or improvement < LEAST_IMPROVEMENT:
        reason = "full fine-tuning improved too little to share" if clusters > 1 else "one row only"
        return {"share": None, "low": None, "high": None, "reason": reason}
    drawn = np.concatenate([share(counts) for counts in resampled_counts(clusters, RESAMPLES, seed=0)])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"share": float(share(whole)[0]), "low": float(low), "high": float(high), "reason": None}


def _after(runs: Sequence[Finished]) -> list[Any]:
    return [run.after for run in runs]


def _statistics(sides: Sequence[Any]) -> np.ndarray:
    """(clusters, 2) sums of loss and weight, the mean over the seeds."""
    summed = [sum_by_cluster(side.scores.loss_statistics, side.scores.clusters) for side in sides]
    return np.asarray(np.mean(summed, axis=0))


def _mean(values: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    keys = values[0].keys() if values else ()
    found: dict[str, float | None] = {}
    for key in keys:
        numbers = [value for one in values if (value := one.get(key)) is not None]
        found[key] = fmean(numbers) if numbers else None
    return found


def _metrics(run: Finished) -> list[dict[str, Any]]:
    from lorica.training.run_folder import RunFolder

    return [record for record in RunFolder(run.folder).read_metrics() if record.get("loss") is not None]
