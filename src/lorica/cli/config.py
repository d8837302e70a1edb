"""`lorica config show` and `lorica config schema`: what a run would use and why, and the schema for editors."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorica.cli.arguments import Json, Settings, split_settings

if TYPE_CHECKING:
    from lorica.config import Resolved

app = typer.Typer(help="Explain a configuration.", no_args_is_help=True)


@app.command("show")
def show(
    arguments: Settings = None,
    describe: Annotated[bool, typer.Option(help="Say what each setting is.")] = False,
    as_json: Json = False,
) -> None:
    """Print every setting of the run, its value, and where the value came from."""
    from lorica.config import load

    path, overrides = split_settings(arguments)
    rows = settings_rows(load(path, overrides, values_origin="command line"))
    if as_json:
        typer.echo(json.dumps({"settings": rows}, ensure_ascii=False))
    else:
        print_settings(rows, describe)


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of the configuration, for editors that complete and check YAML."""
    from lorica.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def settings_rows(resolved: "Resolved") -> list[dict[str, Any]]:
    """One row a setting: key, value, origin, description, and why it has no effect (null where it has one)."""
    from lorica.config import LEAVES, unused_settings, value_of

    unused = unused_settings(resolved.config)
    return [
        {
            "key": key,
            "value": value_of(resolved.config, key),
            "origin": resolved.origins[key],
            "description": field.description,
            "unused": unused.get(key),
        }
        for key, field in LEAVES.items()
    ]


def print_settings(rows: list[dict[str, Any]], describe: bool = False) -> None:
    """The rows as a table, a block a section; defaults and settings without effect are dim."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    table.add_column("setting", no_wrap=True)
    for title in ("value", "origin", *(["what it is"] if describe else [])):
        table.add_column(title, overflow="fold")
    section = ""
    for row in rows:
        here = row["key"].partition(".")[0]
        if section and here != section:
            table.add_row()
        section = here
        origin = row["unused"].partition(";")[0] if row["unused"] else row["origin"]
        style = "dim" if row["unused"] or origin == "default" else ""
        value = row["value"] if isinstance(row["value"], str) else json.dumps(row["value"], ensure_ascii=False)
        cells = (row["key"], value, origin, *([row["description"]] if describe else []))
        # Text, not markup: a value such as "[red]" is shown as it is.
        table.add_row(*map(Text, cells), style=style)
    Console().print(table)
