"""`lorica doctor`: what this machine can do, and what would get in the way."""

from typing import Annotated

import typer

from lorica.cli.arguments import Json


def doctor(
    profile: Annotated[bool, typer.Option(help="Measure this machine's speed, and keep it for `lorica plan`.")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, devices, precision, memory and disk."""
    if profile:
        _profile(as_json)
        return
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


def _profile(as_json: bool) -> None:
    from dataclasses import asdict

    from lorica.cli.terminal import print_json
    from lorica.models.precision import choose_device
    from lorica.planning.here import write_profile
    from lorica.planning.profile import measure_machine
    from lorica.units import shown_bytes

    machine = measure_machine(choose_device("auto"))
    path = write_profile(machine)
    if as_json:
        print_json(asdict(machine) | {"path": str(path)})
        return
    typer.echo(machine.name)
    for kind, points in machine.rates.items():
        shown = ", ".join(f"{rate / 1e9:,.0f} (side {side})" for side, rate in points)
        typer.echo(f"  {kind + ' products':<22} {shown} GFLOP/s")
    typer.echo(f"  {'memory':<22} {shown_bytes(machine.bandwidth)}/s read and written")
    typer.echo(f"  {'starting an operator':<22} {machine.launch * 1e6:.1f} microseconds")
    typer.echo(f"kept in {path}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
