"""`lorica sweep`: try several values of some settings, and finish the best."""

from pathlib import Path
from typing import Annotated

import typer

from lorica.cli.arguments import Data, Json, Model, complete_setting, given, split_settings


def sweep_command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] section.key=value,value...",
            help="A YAML or JSON file, and settings; those with several values, or a range, are varied.",
            autocompletion=complete_setting,
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    out: Annotated[str | None, typer.Option(help="Folder of the sweep; default runs/<model>-<data>-<time>.")] = None,
    keep: Annotated[int, typer.Option(help="One trial in so many goes on after each comparison; 1 finishes all.")] = 3,
    lanes: Annotated[int, typer.Option(help="Most trials trained side by side over one base.")] = 8,
    resume: Annotated[Path | None, typer.Option(help="Go on with the sweep in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Train several variants side by side, stop the losers early, finish and report the best.

    \b
    lorica sweep config.yaml train.lr=1e-4,3e-4,1e-3 lora.r=8,32
    lorica sweep config.yaml train.lr=log:1e-5:1e-3:5
    lorica sweep --resume runs/x
    """
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.sweeping import sweep
    from lorica.sweeping.terminal import print_sweep

    path, overrides = split_settings(arguments)
    quiet_libraries()
    with TerminalWatcher() as watcher:
        result = sweep(
            path, overrides, out=out, share=keep, lanes=lanes, resume=resume, watcher=watcher,
            values_origin="command line", **given(model, data),
        )  # fmt: skip
    if as_json:
        print_json(result.to_dict())
    else:
        print_sweep(result.to_dict(), Console())
