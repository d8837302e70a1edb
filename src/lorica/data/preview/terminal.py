"""Previews and checks in a terminal: rich draws the colours, and nothing that the rows say is taken for markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lorica.data.findings import counted
from lorica.data.preview.marks import visible
from lorica.data.preview.shown import Preview, ShownExample, ShownToken

if TYPE_CHECKING:
    from lorica.data.gates import Gate

SEVERITY_STYLES = {"error": "bold red", "warn": "yellow", "note": "cyan", "ignore": "dim"}
BAR = 32
ROWS_SHOWN = 3


def print_previews(preview: Preview, console: Console) -> None:
    """The examples one after another, then what the colours mean."""
    for number, example in enumerate(preview.examples, start=1):
        console.print(Rule(Text(_title(example, number if preview.packed else 0)), align="left", style="dim"))
        line = Text()
        for index, token in enumerate(example.tokens):
            line.append(visible(token.text) or "·", _style(token, index))
        console.print(line, soft_wrap=False, highlight=False)
        for name, message in example.findings:
            console.print(Text(f"{name}: {message}", style="yellow"))
    console.print(_legend())
    if preview.summary:
        console.print()
        _print_lengths(preview.summary, console)


def print_check(found: Mapping[str, Any], console: Console) -> None:
    """Counts, lengths, and a table of findings."""
    if found["rows"]:
        _print_counts(found, console)
        console.print()
    if found["findings"]:
        console.print(_findings(found["findings"]))
    else:
        console.print("nothing found", style="green")


def _print_counts(found: Mapping[str, Any], console: Console) -> None:
    training, held_out = counted(found["examples"]["training"], "example"), found["examples"]["held_out"]
    console.print(
        f"{counted(found['rows'], 'row')} as {found['format']}: {training} to train on, {held_out:,} held out; "
        f"{counted(found['tokens'], 'token')}, {found['supervised_tokens']:,} of them trained "
        f"({found['supervised_share']:.1%})",
        highlight=False,
    )
    _print_lengths(found, console)
    packing = found["packing"]
    if "efficiency" in packing:
        console.print(
            f"packing: {packing['efficiency']:.1%} full at {packing['capacity']:,} tokens a microbatch, in steps of "
            f"{packing['batch_size']:,} rows (nothing is padded)",
            highlight=False,
        )


def print_gates(gates: Sequence[Gate], console: Console) -> None:
    """Every gate with its default."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("gate", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("what it finds (an error above this share of all rows)", overflow="fold")
    for gate in gates:
        above = f" ({gate.ruins_above:.0%})" if gate.ruins_above is not None else ""
        table.add_row(gate.key, Text(gate.severity, SEVERITY_STYLES[gate.severity]), Text(gate.meaning + above))
    console.print(table)


def _title(example: ShownExample, document: int) -> str:
    told = [f"document {document}"] if document else []
    told += [example.source, *([example.title] if example.title else [])]
    return " · ".join([*told, f"{len(example.tokens):,} tokens, {example.supervised:,} trained"])


def _style(token: ShownToken, index: int) -> str:
    """Every second token is underlined, so that they can be told apart; a weight other than 1 has another green."""
    if token.stop:
        return "bold white on dark_green"
    underline = " underline" if index % 2 else ""
    if token.weight == 0:
        return ("magenta dim" if token.special else "bright_black") + underline
    shade = "green" if token.weight == 1 else "chartreuse1" if token.weight > 1 else "dark_sea_green4"
    return shade + underline


def _legend() -> Text:
    return Text.assemble(
        ("context", "bright_black"),
        "  ",
        ("control token", "magenta dim"),
        "  ",
        ("trained", "green"),
        "  ",
        ("weight below 1", "dark_sea_green4"),
        "  ",
        ("weight above 1", "chartreuse1"),
        "  ",
        ("stop token", "bold white on dark_green"),
        "  every second token is underlined; · is a part of a character",
    )


def _print_lengths(found: Mapping[str, Any], console: Console) -> None:
    told = found["lengths"]
    if not told:
        return
    quantiles = ", ".join(f"{name} {told[name]:,}" for name in ("shortest", "median", "p95", "longest"))
    console.print(f"tokens of an example: {quantiles} (max_length {found['max_length']:,})", highlight=False)
    counts, edges = told["histogram"]["counts"], told["histogram"]["edges"]
    width = len(f"{edges[-1]:,}")
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * round(BAR * count / max(counts)) or ("▏" if count else "")
        console.print(Text(f"  {low:>{width},} – {high:>{width},}  {bar} {count:,}", style="dim"))


def _findings(findings: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("gate", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("what it is", overflow="fold", ratio=1)
    for finding in findings:
        rows = ", ".join(finding["rows"][:ROWS_SHOWN]) + (" ..." if finding["count"] > ROWS_SHOWN else "")
        told = Text(finding["message"]) + (Text(f"\n{rows}", style="dim") if rows else Text())
        severity = Text(finding["severity"], SEVERITY_STYLES[finding["severity"]])
        table.add_row(severity, finding["gate"], f"{finding['count']:,}" if finding["count"] else "", told)
    return table
