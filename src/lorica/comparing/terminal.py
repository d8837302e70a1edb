"""The comparison as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lorica.comparing.page import cost, loss, share


def print_comparison(result: Mapping[str, Any], console: Console) -> None:
    """The methods, the best first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("method", "learning rate", "held-out loss", "of full's gain (95 %)", "time", "peak memory", "stored"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in result["rows"]:
        told = (row["name"], f"{row['settings']['train.lr']:.3g}", loss(row), share(row))
        table.add_row(*told, *cost(row), style="dim" if row["planned"] else "")
    console.print(table)
    if any(row["planned"] for row in result["rows"]):
        console.print("planned: does not fit in the memory here, so it was not run; a plan's figures.", style="dim")
    console.print(f"\nbefore: {result['best']['base_loss']:.4f}. All of it is in {result['path']}", highlight=False)
