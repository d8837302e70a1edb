"""`report.html`: one file that can be mailed, printed and read anywhere, with every text of the user's escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lorica.evaluate.charts import Point, Series, finite, interval_mark, line_chart, smoothed, thinned
from lorica.evaluate.differences import compare
from lorica.evaluate.headline import TITLES, comparisons
from lorica.evaluate.quantities import duration, memory


def render_page(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """The page for a report and the rows of its metrics.jsonl."""
    environment = Environment(
        loader=PackageLoader("lorica.evaluate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = report["settings"]
    return environment.get_template("page.html").render(
        report=report,
        title=TITLES[report["verdict"]],
        lines=comparisons(report),
        interval_mark=interval_mark,
        compare=compare,
        facts=_facts(report),
        loss_chart=_loss_chart(history),
        rate_chart=_rate_chart(history),
        has_held_out=bool(_points(history, "held_out_loss")),
        chosen={key: setting for key, setting in settings.items() if setting["origin"] != "default"},
        defaults={key: setting for key, setting in settings.items() if setting["origin"] == "default"},
        receipt=dict(_flat(report["receipt"])),
    )


def _facts(report: Mapping[str, Any]) -> dict[str, str]:
    """What the run cost, by label, the planner's prediction beside what was measured where both are known."""
    measured, plan = report["measured"], report["plan"] or {}
    facts = {}
    if report["trainable_parameters"] is not None:
        facts["trainable parameters"] = f"{report['trainable_parameters']:,}"
        if report["total_parameters"]:
            share = 100 * report["trainable_parameters"] / report["total_parameters"]
            facts["trainable parameters"] += f" ({share:.2f} % of {report['total_parameters']:,})"
    if report["steps"] is not None:
        facts["steps"] = f"{report['steps']:,}"
    for label, key, planned_key, write in (
        ("time", "seconds", "seconds", duration),
        ("speed", "tokens_per_second", "tokens_per_second", lambda speed: f"{speed:,.0f} tokens/s"),
        ("peak memory", "peak_memory_bytes", "peak_bytes", memory),
    ):
        if measured.get(key) is not None:
            planned = plan.get(planned_key)
            facts[label] = write(measured[key]) + (f" (planned {write(planned)})" if planned is not None else "")
    return facts


def _loss_chart(history: Sequence[Mapping[str, Any]]) -> Markup:
    train, held_out = thinned(_points(history, "loss")), _points(history, "held_out_loss")
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
