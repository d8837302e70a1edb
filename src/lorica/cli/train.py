"""`lorica train`: fine-tune, or continue a run."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from lorica.cli.arguments import Data, Json, Model, Settings, given, split_settings


def train_command(
    arguments: Settings = None,
    model: Model = None,
    data: Data = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default runs/<model>-<data>-<time>.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on rows of text, and report what got better.

    \b
    lorica train --model DIR_OR_HUB_ID --data rows.jsonl
    lorica train config.yaml train.lr=3e-4 lora.r=16
    lorica train --resume runs/x
    """
    path, overrides = split_settings(arguments)
    run_and_print(as_json, path, overrides, resume, given(model, data, out))


def run_and_print(
    as_json: bool, path: str | None, overrides: list[str], resume: Path | None, values: dict[str, Any]
) -> None:
    """Train with a drawn progress, then print the report."""
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.evaluation.terminal import print_report
    from lorica.run import train

    quiet_libraries()
    with TerminalWatcher() as watcher:
        result = train(path, overrides, resume=resume, watcher=watcher, values_origin="command line", **values)
        talk = f"lorica chat {shlex.quote(str(result.run))}"
        watcher.notice(f"all of it is in {result.run}; talk to it with: {talk}")
    if as_json:
        print_json(result.to_dict())
    elif result.report is not None:
        print_report(result.report, Console())
    else:
        typer.echo(f"{result.steps} steps, final loss {result.final_loss:.4f}: {result.run}")
