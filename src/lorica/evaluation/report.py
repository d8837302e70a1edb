"""The report of a run: what was better, what was worse, and how sure that is.

`build_report` turns two evaluations and the run's facts into one plain dictionary, the content of `report.json`; the
terminal table and the page only lay it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorica.evaluation.bootstrap import Interval, paired_interval, sum_by_cluster, verdict
from lorica.evaluation.completions import spread
from lorica.evaluation.evaluation import Evaluation
from lorica.evaluation.forgetting import GeneralLoss
from lorica.evaluation.headline import headline
from lorica.evaluation.metrics import score_function
from lorica.evaluation.page import render_page
from lorica.evaluation.quantities import quantity
from lorica.files import write_atomically, write_json

FACTS: dict[str, Any] = {
    "run": None,
    "model": None,
    "data": None,
    "trainable_parameters": None,
    "total_parameters": None,
    "steps": None,
    "plan": None,
    "measured": {},
    "learning_rate": None,
    "findings": [],
    "settings": {},
    "receipt": {},
}


def build_report(
    before: Evaluation, after: Evaluation, run_facts: Mapping[str, Any], samples: int = 5
) -> dict[str, Any]:
    """Compares two evaluations of the same rows.

    Args:
        run_facts: any of `run`, `model`, `data` (names for people), `trainable_parameters`, `total_parameters`,
            `steps`, `plan`, `measured` ({seconds, tokens_per_second, peak_memory_bytes, ...}), `findings` ([{name,
            rows, message}]), `settings` ({dotted key: {value, origin}}) and `receipt`; other keys are kept as they are.

    Returns:
        A dictionary that JSON can hold: no NaN (None stands for it) and no tuples. Keys: `verdict`, `headline`,
        `before` and `after` (each `loss`, `token_accuracy`, `metrics`, `rows`, `tokens`), and by quantity
        `differences`, `intervals` ([low, high] or None) and `verdicts`; `forgetting`, `samples`, `notes`, the facts.

    Raises:
        ValueError: the two sides did not measure the same rows.
    """
    _check_same_rows(before, after)
    intervals = _intervals(before, after)
    report: dict[str, Any] = {
        **FACTS,
        **run_facts,
        "before": _side(before),
        "after": _side(after),
        "differences": {name: interval.difference for name, interval in intervals.items()},
        "intervals": {name: _ends(interval) for name, interval in intervals.items()},
        "verdicts": {name: verdict(i, quantity(name).lower_is_better) for name, i in intervals.items()},
        "signatures": {metric.name: metric.signature for metric in after.metrics if metric.signature},
        "forgetting": _forgetting(before.general, after.general),
        "samples": _samples(before, after, samples),
        "notes": _notes(before, after, intervals),
    }
    plain: dict[str, Any] = _without_nan(report)
    plain["verdict"], plain["headline"] = headline(plain)
    return plain


def write_report(report: Mapping[str, Any], folder: str | Path, history: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes `report.html`, then `report.json` (its presence says that a run is complete), each whole or not at all.

    `history` is the rows of metrics.jsonl: `step` with `loss` and `lr`, and rows with `held_out_loss`.
    """
    page, numbers = Path(folder) / "report.html", Path(folder) / "report.json"
    write_atomically(page, render_page(report, history).encode())
    write_json(numbers, report)
    return [page, numbers]


def _check_same_rows(before: Evaluation, after: Evaluation) -> None:
    def identity(side: Evaluation) -> tuple[object, ...]:
        return (
            side.scores and (side.scores.sources, side.scores.weights.tolist()),
            [(answer.source, answer.prompt) for answer in side.answers],
            [metric.name for metric in side.metrics],
            side.general and (side.general.text, side.general.byte_counts.tolist()),
        )

    if identity(before) != identity(after):
        raise ValueError(
            "The evaluations before and after did not measure the same rows, metrics and general text, so they cannot "
            "be compared. Evaluate both sides with the same held-out rows and settings."
        )


def _side(evaluation: Evaluation) -> dict[str, Any]:
    scores = evaluation.scores
    return {
        "loss": scores.loss if scores else None,
        "token_accuracy": scores.token_accuracy if scores else None,
        "metrics": {metric.name: metric.score for metric in evaluation.metrics},
        "rows": len(scores.sources) if scores else 0,
        "tokens": int(scores.tokens.sum()) if scores else 0,
        "answers": len(evaluation.answers),
    }


def _intervals(before: Evaluation, after: Evaluation) -> dict[str, Interval]:
    intervals = {}
    if before.scores and after.scores:
        clusters = after.scores.clusters
        for name, first, second in (
            ("loss", before.scores.loss_statistics, after.scores.loss_statistics),
            ("token_accuracy", before.scores.accuracy_statistics, after.scores.accuracy_statistics),
        ):
            intervals[name] = paired_interval(sum_by_cluster(first, clusters), sum_by_cluster(second, clusters))
    for old, new in zip(before.metrics, after.metrics, strict=True):
        intervals[new.name] = paired_interval(old.statistics, new.statistics, score_function(new.name))
    return intervals


def _ends(interval: Interval) -> list[float] | None:
    return None if interval.low is None or interval.high is None else [interval.low, interval.high]


def _forgetting(before: GeneralLoss | None, after: GeneralLoss | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    interval = paired_interval(before.scores.loss_statistics, after.scores.loss_statistics)
    per_byte = paired_interval(before.byte_statistics, after.byte_statistics)
    return {
        "text": after.text,
        "passages": len(after.byte_counts),
        "before": {"loss": before.scores.loss, "loss_per_byte": before.loss_per_byte},
        "after": {"loss": after.scores.loss, "loss_per_byte": after.loss_per_byte},
        "differences": {"loss": interval.difference, "loss_per_byte": per_byte.difference},
        "intervals": {"loss": _ends(interval), "loss_per_byte": _ends(per_byte)},
        "verdict": verdict(interval, lower_is_better=True),
    }


def _samples(before: Evaluation, after: Evaluation, limit: int) -> list[dict[str, Any]]:
    """Chosen by position, never by result."""
    pairs = spread(list(zip(before.answers, after.answers, strict=True)), limit)
    return [
        {
            "source": new.source,
            "prompt": new.prompt,
            "reference": new.references[0],
            "references": new.references,
            "before": old.prediction,
            "after": new.prediction,
        }
        for old, new in pairs
    ]


def _notes(before: Evaluation, after: Evaluation, intervals: Mapping[str, Interval]) -> list[str]:
    common = [note for note in before.notes if note in after.notes]
    notes = common + [f"Before: {note}" for note in before.notes if note not in common]
    notes += [f"After: {note}" for note in after.notes if note not in common]
    for label, side in (("before", before), ("after", after)):
        rows = side.scores.not_finite if side.scores else []
        if rows:
            more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
            notes.append(f"The loss {label} is not a finite number on {', '.join(rows[:5])}{more}.")
    notes += [f"{quantity(name).label}: no interval, {i.reason}." for name, i in intervals.items() if i.reason]
    return notes


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
