"""What several commands take: their common arguments, and settings as the command line gives them."""

from pathlib import Path
from typing import Annotated, Any

import typer


def complete_setting(incomplete: str) -> list[str]:
    """Settings that begin with what was typed, with their `=`: `lorica train train.l<TAB>`."""
    from lorica.config import LEAVES

    return [f"{key}=" for key in LEAVES if key.startswith(incomplete)]


Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [section.key=value]...",
        help="A YAML or JSON file, and settings that win over it, such as train.lr=3e-4.",
        autocompletion=complete_setting,
    ),
]
Model = Annotated[str | None, typer.Option(help="Directory of a transformers model, a GGUF file, or a hub id.")]
Data = Annotated[list[str] | None, typer.Option(help="File of rows; may be given again.")]
AllowOtherBase = Annotated[bool, typer.Option("--allow-other-base", help="Use the adapter on another base.")]
Adapter = Annotated[
    Path | None, typer.Option(help="An adapter to put on a model: PEFT's folder, or llama.cpp's GGUF file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def split_settings(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """The configuration file, if there is one, and the overrides. Raises BadParameter for two files."""
    arguments = arguments or []
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
