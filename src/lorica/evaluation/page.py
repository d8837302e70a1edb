"""`report.html`: one file that can be mailed, printed and read anywhere, with every text of the user's escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lorica.evaluation.charts import Point, Series, finite, interval_mark, line_chart, smoothed, thinned
from lorica.evaluation.differences import compare
from lorica.evaluation.headline import TITLES, comparisons
from lorica.evaluation.memory_chart import memory_chart
from lorica.evaluation.quantities import duration
from lorica.evaluation.setting_chart import loss_chart
from lorica.pages import fill
from lorica.units import shown_bytes


@dataclass(frozen=True, slots=True)
class Fact:
    """One number of the page's head, and what is written small beneath it."""

    label: str
    value: str
    beside: str = ""


# What a run measures, and the planner's key for the same thing.
_MEASURED: list[tuple[str, str, str, Callable[[float], str]]] = [
    ("time", "seconds", "seconds", duration),
    ("speed", "tokens_per_second", "tokens_per_second", lambda speed: f"{speed:,.0f} tokens/s"),
    ("peak memory", "peak_memory_bytes", "peak_bytes", shown_bytes),
]


def render_page(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """The page for a report and the rows of its metrics.jsonl."""
    settings = report["settings"]
    held_out = _held_out_points(report, history)
    return fill(
        "lorica.evaluation",
        report=report,
        title=TITLES[report["verdict"]],
        lines=comparisons(report),
        interval_mark=interval_mark,
        compare=compare,
        facts=_facts(report),
        loss_chart=_loss_chart(_points(history, "loss"), held_out),
        rate_chart=_rate_chart(history),
        search=report["learning_rate"],
        search_chart=loss_chart(report["learning_rate"]["rows"], "train.lr") if report["learning_rate"] else "",
        duration=duration,
        memory_chart=memory_chart(_timeline(report)),
        memory_terms=_terms(_timeline(report)),
        has_held_out=bool(held_out),
        chosen={key: setting for key, setting in settings.items() if setting["origin"] != "default"},
        defaults={key: setting for key, setting in settings.items() if setting["origin"] == "default"},
        receipt=dict(_flat(report["receipt"])),
    )


def _facts(report: Mapping[str, Any]) -> list[Fact]:
    """What the run cost, the planner's prediction beside what was measured where both are known."""
    measured, plan, total = report["measured"], report["plan"] or {}, report["total_parameters"]
    facts = []
    if report["trainable_parameters"] is not None:
        trainable = report["trainable_parameters"]
        share = f"{100 * trainable / total:.2f} % of {total:,}" if total else ""
        facts.append(Fact("trainable parameters", f"{trainable:,}", share))
    if report["steps"] is not None:
        facts.append(Fact("steps", f"{report['steps']:,}"))
    for label, key, planned_key, write in _MEASURED:
        if measured.get(key) is not None:
            planned = plan.get(planned_key)
            facts.append(Fact(label, write(measured[key]), f"planned {write(planned)}" if planned is not None else ""))
    return facts


def _timeline(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the plan, empty for a run without one."""
    found = (report["plan"] or {}).get("timeline")
    return found if found is not None else {"terms": [], "stages": []}


def _terms(timeline: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Number and name of the terms that take memory at any stage."""
    taken = [sizes for _, *columns in timeline["stages"] for sizes in columns]
    return [(number, term) for number, term in enumerate(timeline["terms"]) if any(sizes[number] for sizes in taken)]


def _loss_chart(losses: list[Point], held_out: list[Point]) -> Markup:
    if not losses:
        return Markup("")
    train = thinned(losses)
    trend = smoothed(train) if len(train) > 8 else []
    return line_chart(
        [
            Series("training loss per step", "raw" if trend else "smooth", train),
            Series("smoothed", "smooth", trend),
            Series("held-out loss", "dots", held_out),
        ],
        "optimiser step",
        "loss (nats per token)",
    )


def _held_out_points(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Measured on the way, between the base model at step 0 and the result at the last step."""
    ends = {0.0: report["before"]["loss"], float(report["steps"] or 0): report["after"]["loss"]}
    points = {step: loss for step, loss in ends.items() if loss is not None}
    return sorted((points | dict(_points(history, "held_out_loss"))).items())


def _rate_chart(history: Sequence[Mapping[str, Any]]) -> Markup:
    rates = thinned(_points(history, "lr"))
    return line_chart([Series("learning rate", "rate", rates)], "optimiser step", "learning rate", height=170)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    return finite([(float(row["step"]), float(row[key])) for row in history if row.get(key) is not None])


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings and lists as dotted keys."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{prefix}[{index}]")
    else:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
