"""The proof of an export as a table in the terminal, readable at 80 columns."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorica.exporting.proof import Proof
from lorica.exporting.proven import ExportResult
from lorica.exporting.survival import Survival

WORST = 5


def print_export(result: ExportResult, console: Console) -> None:
    """Where it is, how near it is to what was trained, and the weights that lost most."""
    console.print(Text(f"{result.to}: {result.path}", style="bold"))
    for note in result.notes:
        console.print(Text(f"Note: {note}", style="yellow"))
    if result.proof is None:
        console.print(Text("Not proven (--no-proof).", style="yellow"))
        return
    console.print(_numbers(result.proof))
    lost = sorted(result.proof.weights, key=lambda weight: weight.survival)[:WORST]
    if lost and lost[0].survival < 0.99:
        console.print(_weights(lost))
    for note in result.proof.notes:
        console.print(Text(f"Note: {note}", style="yellow"))
    for reason in result.proof.reasons:
        console.print(Text(f"Alarm: {reason}.", style="bold red"))
    if result.proof.reasons:
        names = ", ".join(result.proof.survives_as)
        told = f"It would survive as {names}." if names else "Serve base and adapter (--to peft, --to gguf-adapter)."
        console.print(Text(told, style="red"))


def _numbers(proof: Proof) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim", overflow="fold")
    where = f"over {proof.tokens:,} tokens of {proof.rows:,} rows"
    table.add_row("greedy agreement", f"{proof.greedy_agreement:.2%}", where)
    table.add_row("largest logit difference", f"{proof.max_logit_difference:.3g}", "")
    table.add_row(
        "KL to base and adapter", f"{proof.kl:.3g}", f"nats a token; losing the fine-tune: {proof.kl_of_base:.3g}"
    )
    table.add_row(
        "surviving share of the delta",
        f"{proof.delta_survival:.1%}",
        f"rounding moves weights by {proof.noise:.2g} of it",
    )
    for name, change in proof.metric_change.items():
        table.add_row(f"change in {name}", f"{change:+.3g}", "")
    return table


def _weights(lost: list[Survival]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("weights that lost most", overflow="fold")
    for heading in ("type", "delta / weight", "surviving", "rounding / delta"):
        table.add_column(heading, justify="right", no_wrap=True)
    for weight in lost:
        shares = f"{weight.relative_delta:.2%}", f"{weight.survival:.1%}", f"{weight.noise:.2g}"
        table.add_row(weight.name, weight.type, *shares)
    return table
