"""`lorica compare`: ways to fine-tune beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from lorica.cli.arguments import Data, Json, Model, Settings, given, split_settings


def compare_command(
    arguments: Settings = None,
    model: Model = None,
    data: Data = None,
    methods: Annotated[str, typer.Option(help="lora, full, and packed bases such as nf4 or q4_k_m.")] = "lora,nf4,full",
    seeds: Annotated[int, typer.Option(help="Runs of each method at its best learning rate.")] = 3,
    out: Annotated[str, typer.Option(help="Folder of the comparison.")] = "runs/comparison",
    resume: Annotated[Path | None, typer.Option(help="Go on with the comparison in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Compare LoRA, LoRA on packed bases and full fine-tuning on the same rows, each at its best learning rate.

    \b
    lorica compare config.yaml --methods lora,q4_k_m,full --seeds 3
    lorica compare --resume runs/comparison
    """
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.comparing import compare
    from lorica.comparing.terminal import print_comparison

    path, overrides = split_settings(arguments)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    quiet_libraries()
    watcher = TerminalWatcher()  # whose bars are drawn by the runs themselves
    result = compare(
        path, overrides, methods=names, seeds=seeds, out=out, resume=resume, watcher=watcher,
        values_origin="command line", **given(model, data),
    )  # fmt: skip
    if as_json:
        print_json(result.to_dict())
    else:
        print_comparison(result.to_dict(), Console())
