"""`comparison.html`: the table, the learning rates that were tried, and the training curves, as one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lorica.evaluation.charts import Series, line_chart, smoothed, thinned
from lorica.evaluation.quantities import duration, quantity
from lorica.pages import fill
from lorica.units import shown_bytes


def render_page(result: Mapping[str, Any]) -> str:
    """The page of a finished comparison, every text escaped."""
    return fill(
        "lorica.comparing",
        result=result,
        metrics=list(result["rows"][0]["metrics"]),
        charts=[(row["name"], curve(row)) for row in result["rows"]],
        share=share,
        cost=cost,
        quantity=quantity,
    )


def curve(row: Mapping[str, Any]) -> Markup:
    """The training loss of a method's first seed."""
    points = thinned([(float(step), float(loss)) for step, loss in row["curve"]])
    trend = smoothed(points) if len(points) > 8 else points
    return line_chart(
        [Series("training loss per step", "raw", points), Series("smoothed", "smooth", trend)],
        "optimiser step",
        "loss (nats per token)",
        height=200,
    )


def loss(row: Mapping[str, Any]) -> str:
    """The mean over seeds and how far they are apart."""
    if row["planned"]:
        return "planned"
    spread = max(row["loss_by_seed"].values()) - min(row["loss_by_seed"].values())
    return f"{row['loss']:.4f} (seeds within {spread:.4f})"


def cost(row: Mapping[str, Any]) -> list[str]:
    """Time, peak memory and bytes stored; those of a plan are approximate."""
    seconds = "" if row["seconds"] is None else duration(row["seconds"])
    told = [seconds, shown_bytes(row["peak_memory_bytes"]), shown_bytes(row["bytes_stored"])]
    return [f"~{text}" if row["planned"] and text else text for text in told]


def share(row: Mapping[str, Any]) -> str:
    """The share of full fine-tuning's improvement, in words."""
    found = row["share_of_full"]
    if found is None:
        return ""
    if found["share"] is None:
        return str(found["reason"])
    return f"{found['share']:.1%} ({found['low']:.1%} … {found['high']:.1%})"
