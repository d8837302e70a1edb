"""The comparison as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lorica.evaluation.quantities import duration
from lorica.sweeping.page import state


def print_sweep(result: Mapping[str, Any], console: Console) -> None:
    """The trials, the best first, and what the sweep cost."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in result["rows"][0]["settings"]:
        table.add_column(key)
    for title in ("held-out loss", "from the best (95 %)", "steps", ""):
        table.add_column(title, justify="left" if not title else "right")
    for row in result["rows"]:
        loss = "-" if row["held_out_loss"] is None else f"{row['held_out_loss']:.4f}"
        cells = [*row["settings"].values(), loss, _difference(row["difference"]), f"{row['steps']:,}"]
        best = row["name"] == result["best"]["name"]
        table.add_row(
            *cells, state(row, result["best"]), style="bold green" if best else "dim" if row["failed"] else ""
        )
    console.print(table)
    spent = result["spent"]
    share = spent["steps"] / max(1, spent["steps_of_all_finished"])
    console.print(
        f"\n{len(result['rows'])} trials, {spent['steps']:,} steps ({share:.0%} of running all to the end), "
        f"{duration(spent['seconds'])}. The best is a run of its own: {result['best']['run']}",
        highlight=False,
    )


def _difference(interval: Mapping[str, Any] | None) -> str:
    if interval is None or interval["difference"] is None:
        return ""
    if interval["low"] is None:
        return f"{interval['difference']:+.4f}"
    return f"{interval['difference']:+.4f} ({interval['low']:+.4f} … {interval['high']:+.4f})"
