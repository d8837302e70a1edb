"""`lorica doctor`: what this machine can do, and what would get in the way."""

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False) -> None:
    """Check versions, devices, precision, memory and disk."""
    from lorica.cli.terminal import print_json
    from lorica.run.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
        return
    for name, value in findings.items():
        if name != "problems":
            typer.echo(f"{name:<22} {_shown(value)}")
    for problem in findings["problems"]:
        typer.echo(f"problem: {problem}")
    if not findings["problems"]:
        typer.echo("nothing stands in the way")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
