"""The comparison as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lorica.comparing.page import share
from lorica.evaluation.quantities import duration, memory


def print_comparison(result: Mapping[str, Any], console: Console) -> None:
    """The methods, the best first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("method", "learning rate", "held-out loss", "of full's gain (95 %)", "time", "peak memory", "stored"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in result["rows"]:
        spread = max(row["loss_by_seed"].values()) - min(row["loss_by_seed"].values())
        table.add_row(
            row["name"],
            f"{row['settings']['train.lr']:.3g}",
            f"{row['loss']:.4f} (seeds within {spread:.4f})",
            share(row),
            duration(row["seconds"]),
            memory(row["peak_memory_bytes"]),
            memory(row["bytes_stored"]),
        )
    console.print(table)
    console.print(f"\nbefore: {result['best']['base_loss']:.4f}. All of it is in {result['path']}", highlight=False)
