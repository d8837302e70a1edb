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
    run_and_print(as_json, path, overrides, resume, given(model, data, out))


def split_arguments(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The configuration file, if there is one, and the overrides. Raises BadParameter for two files."""
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise typer.BadParameter(
            f"one configuration file at most, got {', '.join(files)}; settings look like section.key=value"
        )
    return (files[0] if files else None), [argument for argument in arguments if "=" in argument]


def given(model: str | None, data: list[str] | None, out: str | None = None) -> dict[str, Any]:
    """What --model, --data and --out gave, shaped like a configuration; one path is given as it is."""
    rows = data[0] if data is not None and len(data) == 1 else data or None
    values = {"model": model, "data": rows, "out": out}
    return {key: value for key, value in values.items() if value is not None}


def run_and_print(
    as_json: bool, path: str | None, overrides: list[str], resume: Path | None, values: dict[str, Any]
) -> None:
    """Train with a drawn progress, then print the report. Exits with 128 + signal when interrupted."""
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, interruption_told, print_json, quiet_libraries
    from lorica.evaluation.terminal import print_report
    from lorica.run import train

    quiet_libraries()
    with TerminalWatcher() as watcher, interruption_told(watcher, as_json):
        result = train(path, overrides, resume=resume, watcher=watcher, values_origin="command line", **values)
        watcher.notice(f"all of it is in {result.run}; talk to it with: lorica chat {result.run}")
    if as_json:
        print_json(result.to_dict())
    elif result.report is not None:
        print_report(result.report, Console())
    else:
        typer.echo(f"{result.steps} steps, final loss {result.final_loss:.4f}: {result.run}")
