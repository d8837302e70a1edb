"""`lorica data`: look at rows before training on them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lorica.cli.arguments import Data, Json, Settings, given, split_settings

app = typer.Typer(help="Look at the rows before training on them.", no_args_is_help=True)
Model = Annotated[str | None, typer.Option(help="Directory of a model or of a tokenizer alone, or a hub id.")]


@app.command("check")
def check(arguments: Settings = None, model: Model = None, data: Data = None, as_json: Json = False) -> None:
    """Count the rows, and look for all that would spoil a training. No weights are loaded.

    \b
    lorica data check --model DIR_OR_HUB_ID --data rows.jsonl
    lorica data check config.yaml data.max_length=1024
    """
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.data.preview.terminal import print_check
    from lorica.run.check import check as look

    quiet_libraries()
    with TerminalWatcher() as watcher:
        found = look(_resolved(arguments, model, data), watcher)
    if as_json:
        print_json(found)
    else:
        print_check(found, Console())
    if not found["ok"]:
        raise typer.Exit(1)


@app.command("preview")
def preview(
    arguments: Settings = None,
    model: Model = None,
    data: Data = None,
    row: Annotated[int | None, typer.Option(min=1, help="Number of the row, counted from 1.")] = None,
    worst: Annotated[int | None, typer.Option(min=1, help="This many rows, the most suspicious first.")] = None,
    packed: Annotated[bool, typer.Option("--packed", help="The first microbatch, as it is trained.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file instead.")] = None,
    as_json: Json = False,
) -> None:
    """Show the tokens of rows: grey is context, green is trained.

    \b
    lorica data preview --model DIR_OR_HUB_ID --data rows.jsonl --row 3
    lorica data preview config.yaml --worst 10 --html worst.html
    """
    from rich.console import Console

    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.data.preview.page import render_page
    from lorica.data.preview.terminal import print_previews
    from lorica.files import write_atomically
    from lorica.run.preview import preview as look

    if sum((row is not None, worst is not None, packed)) > 1:
        raise typer.BadParameter("give one of --row, --worst and --packed")
    quiet_libraries()
    with TerminalWatcher() as watcher:
        found = look(_resolved(arguments, model, data), row=row, worst=worst, packed=packed, watcher=watcher)
    if html is not None:
        write_atomically(html, render_page(found).encode())
    if as_json:
        print_json(found.to_dict())
    elif html is not None:
        typer.echo(f"{html}")
    else:
        print_previews(found, Console())


@app.command("gates")
def gates(as_json: Json = False) -> None:
    """List the gates that every run's rows pass, and how grave each is by default."""
    from rich.console import Console

    from lorica.cli.terminal import print_json
    from lorica.data.gates import GATES
    from lorica.data.preview.terminal import print_gates

    if as_json:
        told = [{"gate": it.key, "severity": it.severity, "meaning": it.meaning} for it in GATES]
        print_json({"gates": told})
    else:
        print_gates(GATES, Console())


@app.command("cache")
def cache(
    folder: Annotated[Path | None, typer.Argument(help="Its folder, if not the user's own.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything in it.")] = False,
    as_json: Json = False,
) -> None:
    """Say what the cache of tokenised rows takes, or empty it. Runs never depend on it."""
    from lorica.cli.terminal import print_json
    from lorica.data.cache import cache_files, default_folder, size_of
    from lorica.data.cache import clear as empty
    from lorica.units import shown_bytes

    folder = folder or default_folder()
    freed = empty(folder) if clear else 0
    files = cache_files(folder)
    held = sum(map(size_of, files))
    if as_json:
        print_json({"folder": str(folder), "files": len(files), "bytes": held, "freed_bytes": freed})
    elif clear:
        typer.echo(f"{folder}: {shown_bytes(freed)} freed")
    else:
        typer.echo(f"{folder}: {shown_bytes(held)} in {len(files)} file{'s' * (len(files) != 1)}")


def _resolved(arguments: list[str] | None, model: str | None, data: list[str] | None) -> Any:
    from lorica import config

    path, overrides = split_settings(arguments)
    return config.load(path, overrides, given(model, data) or None, "command line")
