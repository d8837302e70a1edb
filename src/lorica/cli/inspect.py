"""`lorica inspect`: what lies at a path."""

from pathlib import Path
from typing import Annotated, Any

import typer


def inspect(
    path: Annotated[Path, typer.Argument(help="A run, an adapter, a model, or a GGUF file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Say what lies at a path, without loading a model."""
    from lorica.cli.terminal import print_json
    from lorica.inspection import inspect as look

    found = look(path)
    if as_json:
        print_json(found)
    else:
        for line in _lines(found):
            typer.echo(line)


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """A line a value; nested objects indented, lists of modules as a small table."""
    lines: list[str] = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif name == "modules":
            lines += [f"{indent}{len(value)} modules:", *(_module(module, indent + "  ") for module in value)]
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            lines.append(f"{indent}{name}: {shown}")
    return lines


def _module(module: dict[str, Any], indent: str) -> str:
    return (
        f"{indent}{module['module']:<44} r {module['r']:<4} scale {module['scale']:<7.3g} "
        f"norm {module['norm']:<8.3g} effective rank {module['effective_rank']:.1f}"
    )
