"""`lorica train`: fine-tune, or continue a run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lorica.cli.completion import complete_setting


def train_command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] [section.key=value]...",
            help="A YAML or JSON file, and settings that win over it, such as train.lr=3e-4.",
            autocompletion=complete_setting,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Directory of a transformers model, or a hub id.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="File of rows (JSON Lines); may be given again.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default runs/<model>-<data>-<time>.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Fine-tune a model on rows of text, and report what got better.

    \b
    lorica train --model DIR_OR_HUB_ID --data rows.jsonl
    lorica train config.yaml train.lr=3e-4 lora.r=16
    lorica train --resume runs/x
    """
    path, overrides = split_arguments(arguments or [])
    values = {"model": model, "data": one_or_many(data), "out": out}
    run_and_print(as_json, path, overrides, resume, {key: value for key, value in values.items() if value is not None})


def split_arguments(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The configuration file, if there is one, and the overrides. Raises BadParameter for two files."""
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise typer.BadParameter(
            f"one configuration file at most, got {', '.join(files)}; settings look like section.key=value"
        )
    return (files[0] if files else None), [argument for argument in arguments if "=" in argument]


def one_or_many(data: list[str] | None) -> str | list[str] | None:
    """What --data gave: one path as it is, several as a list."""
    return data[0] if data is not None and len(data) == 1 else data or None


def run_and_print(
    as_json: bool, path: str | None, overrides: list[str], resume: Path | None, values: dict[str, Any]
) -> None:
    """Train with a drawn progress, then print the report. Exits with 128 + signal when interrupted."""
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.evaluation.terminal import print_report
    from lorica.run import train
    from lorica.training.interrupt import Interrupted

    quiet_libraries()
    with TerminalWatcher() as watcher:
        try:
            result = train(path, overrides, resume=resume, watcher=watcher, values_origin="command line", **values)
        except Interrupted as stop:
            watcher.notice(str(stop))
            if as_json:
                print_json({"error": str(stop), "run": str(stop.run)})
            raise typer.Exit(128 + stop.signal) from None
        watcher.notice(f"all of it is in {result.run}; talk to it with: lorica chat {result.run}")
    if as_json:
        print_json(result.to_dict())
    elif result.report is not None:
        print_report(result.report, Console())
    else:
        typer.echo(f"{result.steps} steps, final loss {result.final_loss:.4f}: {result.run}")
