"""`lorica quantize`: a base alone, packed into a GGUF file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorica.cli.arguments import Json

if TYPE_CHECKING:
    from rich.table import Table

    from lorica.exporting.quantise import QuantiseResult


def quantize_command(
    model: Annotated[str, typer.Argument(help="A transformers directory, hub id or GGUF file.")],
    type_name: Annotated[str, typer.Option("--type", help="Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_M, Q2_K, F16, ...")],
    out: Annotated[Path, typer.Option(help="The GGUF file to write.")],
    imatrix: Annotated[Path | None, typer.Option(help="Importances made by llama.cpp's llama-imatrix.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Run both models on a text, and compare.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    requantize: Annotated[bool, typer.Option("--requantize", help="Pack again what is packed already.")] = False,
    as_json: Json = False,
) -> None:
    """Pack a base into a GGUF file, with llama.cpp's types for every tensor.

    \b
    lorica quantize DIR_OR_HUB_ID --type Q4_K_M --out model-q4_k_m.gguf
    """
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.exporting.quantise import quantise
    from lorica.training.interrupt import termination_raised
    from lorica.units import shown_bytes

    quiet_libraries()
    with termination_raised(), TerminalWatcher() as watcher:
        result = quantise(
            model,
            type_name,
            out,
            imatrix=imatrix,
            measure=measure,
            overwrite=overwrite,
            requantise=requantize,
            watcher=watcher,
        )
    if as_json:
        print_json(result.to_dict())
        return
    console = Console()
    size = f"{shown_bytes(result.bytes)}, {result.bits_per_weight:.2f} bits a weight"
    console.print(f"{result.path}: {size}", markup=False, soft_wrap=True)
    console.print(_table(result))
    for note in result.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    if result.measured is not None:
        told = result.measured
        console.print(
            f"loss {told.loss_before:.4f} -> {told.loss_after:.4f} nats a token, KL {told.kl:.3g}, same first token at "
            f"{told.greedy_agreement:.1%} of {told.tokens:,} positions",
            markup=False,
        )


def _table(result: "QuantiseResult") -> "Table":
    from rich.table import Table

    from lorica.units import shown_bytes

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("type", "tensors", "size", "relative error"):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for kind, packed in result.types.items():
        error = "copied" if packed.relative_error is None else f"{packed.relative_error:.4f}"
        table.add_row(kind, f"{packed.tensors:,}", shown_bytes(packed.bytes), error)
    return table
