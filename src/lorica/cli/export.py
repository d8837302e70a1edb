"""`lorica export`: what was trained, for others to serve."""

from pathlib import Path
from typing import Annotated

import typer

from lorica.cli.arguments import Json


def export_command(
    path: Annotated[
        Path, typer.Argument(help="A run, or an adapter: PEFT's folder, or llama.cpp's file.", metavar="RUN_OR_ADAPTER")
    ],
    to: Annotated[str, typer.Option(help="peft, merged, gguf-adapter, gguf or ollama.")],
    type_name: Annotated[
        str | None, typer.Option("--type", help="gguf, ollama: Q8_0 (default), Q6_K, Q4_K_M, ...; merged: F16, ...")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default RUN/exports/...")] = None,
    profile: Annotated[str | None, typer.Option(help="peft: vllm writes the form that vLLM reads right.")] = None,
    imatrix: Annotated[
        Path | None, typer.Option(help="gguf, ollama: importances made by llama.cpp's llama-imatrix.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Where the base is, if not where it was.")] = None,
    proof: Annotated[bool, typer.Option(help="Run the export beside what was trained, and compare.")] = True,
    accept: Annotated[bool, typer.Option("--accept", help="Exit with 0 though the proof found the tune lost.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    allow_other_base: Annotated[
        bool, typer.Option("--allow-other-base", help="Export on another base than the adapter's.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a run or an adapter for other programs, and prove that what was written computes the same.

    \b
    lorica export runs/x --to peft
    lorica export runs/x --to merged
    lorica export runs/x --to gguf --type Q4_K_M
    """
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.exporting import export
    from lorica.exporting.terminal import print_export
    from lorica.training.interrupt import termination_raised

    quiet_libraries()
    with termination_raised(), TerminalWatcher() as watcher:
        result = export(
            path,
            to,
            out=out,
            type=type_name,
            profile=profile,
            imatrix=imatrix,
            base=base,
            proof=proof,
            overwrite=overwrite,
            allow_other_base=allow_other_base,
            watcher=watcher,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        print_export(result, Console())
    if not result.ok and not accept:
        raise typer.Exit(1)
