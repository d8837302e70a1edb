"""The report as a table in the terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lorica.evaluation.headline import TITLES, comparisons
from lorica.evaluation.quantities import duration
from lorica.units import shown_bytes

STYLES = {"better": "bold green", "worse": "bold red", "mixed": "bold yellow"}
SAMPLES = 2
SAMPLE_LENGTH = 240


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Headline, before/after table, what the run cost, two samples, and every note."""
    console.print()
    console.print(Text(TITLES[report["verdict"]], style=STYLES.get(report["verdict"], "bold")))
    console.print(Text(report["headline"]))
    if report["differences"] or report["forgetting"]:
        console.print()
        console.print(_table(report))
        console.print(Text("Change: after minus before, with its paired-bootstrap 95 % interval.", style="dim"))
    cost = cost_line(report)
    if cost:
        console.print()
        console.print(Text(cost))
    if report.get("learning_rate"):
        console.print(Text(searched_line(report["learning_rate"])))
    for sample in report["samples"][:SAMPLES]:
        console.print()
        console.print(_sample(sample))
    for note in report["notes"]:
        console.print(Text(f"Note: {note}", style="yellow"))


def searched_line(search: Mapping[str, Any]) -> str:
    """What `train.lr: auto` tried, with the loss of each, and what that took."""
    rows = [(row["settings"]["train.lr"], row["held_out_loss"]) for row in search["rows"]]
    tried = ", ".join(f"{rate} → {'diverged' if loss is None else f'{loss:.4f}'}" for rate, loss in rows)
    spent = f"{search['tokens']:,} tokens ({search['share_of_tokens']:.0%} of the run's), {duration(search['seconds'])}"
    return f"learning rate {search['chosen']:g} (auto): {search['reason']}. Tried: {tried}; the others took {spent}"


def cost_line(report: Mapping[str, Any]) -> str:
    """Trainable parameters, steps, time, speed and peak memory: those that are known."""
    measured = report["measured"]
    parts = []
    if report["trainable_parameters"] is not None:
        total = report["total_parameters"]
        share = f" of {total:,} ({100 * report['trainable_parameters'] / total:.2f} %)" if total else ""
        parts.append(f"{report['trainable_parameters']:,} trainable parameters{share}")
    if report["steps"] is not None:
        parts.append(f"{report['steps']:,} steps")
    if measured.get("seconds") is not None:
        parts.append(duration(measured["seconds"]))
    if measured.get("tokens_per_second") is not None:
        parts.append(f"{measured['tokens_per_second']:,.0f} tokens/s")
    if measured.get("peak_memory_bytes") is not None:
        parts.append(f"peak memory {shown_bytes(measured['peak_memory_bytes'])}")
    return " · ".join(parts)


def _table(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("", overflow="fold")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    table.add_column("", overflow="fold")
    for line in comparisons(report):
        table.add_row(
            Text(line.quantity.label),
            line.quantity.value(line.before),
            line.quantity.value(line.after),
            line.quantity.change(line.difference),
            line.interval_text,
            Text(line.verdict or "", style=STYLES.get(line.verdict or "", "dim")),
        )
    return table


def _sample(sample: Mapping[str, Any]) -> Padding:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, key in (("prompt", "prompt"), ("expected", "reference"), ("before", "before"), ("after", "after")):
        grid.add_row(label, Text(_short(sample[key])))
    return Padding(grid, (0, 0, 0, 2))


def _short(text: str) -> str:
    """One line; the end of a prompt says more than its start, but the middle is what can be spared."""
    line = " ".join(text.split())
    half = SAMPLE_LENGTH // 2
    return line if len(line) <= SAMPLE_LENGTH else f"{line[:half]} … {line[-half:]}"
