"""`lorica inspect`: what lies at a path."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lorica.cli.arguments import Json


def inspect(
    path: Annotated[Path, typer.Argument(help="A run, an adapter, a model, or a GGUF file.")],
    intruders: Annotated[
        bool, typer.Option(help="Lay an adapter beside its base: relative norms and intruder dimensions.")
    ] = False,
    base: Annotated[Path | None, typer.Option(help="Where that base is, if not where it was in training.")] = None,
    allow_other_base: Annotated[bool, typer.Option(help="Take a base whose content is another.")] = False,
    as_json: Json = False,
) -> None:
    """Say what lies at a path, without loading a model."""
    from lorica.cli.terminal import print_json
    from lorica.inspection import inspect as look

    found = look(
        path,
        intruders=intruders,
        base=base,
        allow_other_base=allow_other_base,
        progress=lambda name: typer.echo(f"\r{name:<70}", nl=False, err=True) if sys.stderr.isatty() else None,
    )
    if as_json:
        print_json(found)
    else:
        for line in _lines(found):
            typer.echo(line)


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """A line a value; nested objects indented, lists of modules as a small table."""
    lines: list[str] = []
    for name, value in found.items():
        if isinstance(value, dict) and name == "layers":
            lines += [f"{indent}layers:", *(_layer(number, layer, indent + "  ") for number, layer in value.items())]
        elif isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif name == "modules":
            lines += [f"{indent}{len(value)} modules:", *(_module(module, indent + "  ") for module in value)]
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            lines.append(f"{indent}{name}: {shown}")
    return lines


def _module(module: dict[str, Any], indent: str) -> str:
    line = (
        f"{indent}{module['module']:<44} r {module['r']:<4} scale {module['scale']:<7.3g} "
        f"norm {module['norm']:<8.3g} effective rank {module['effective_rank']:.1f}"
    )
    if "intruders" not in module:
        return line
    return f"{line:<108} relative norm {module['relative_norm']:<8.2g} intruders {module['intruders']}"


def _layer(number: str, layer: dict[str, Any], indent: str) -> str:
    intruders = f" intruders {layer['intruders']}" if "intruders" in layer else ""
    return f"{indent}{number:<5} norm {layer['norm']:<8.3g}{intruders}"
