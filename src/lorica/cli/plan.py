"""`lorica plan`: what a run will take, before it is run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorica.cli.completion import complete_setting
from lorica.cli.train import one_or_many, split_arguments

if TYPE_CHECKING:
    from lorica.planning.plan import Plan


def plan_command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] [section.key=value]...",
            help="As of `lorica train`.",
            autocompletion=complete_setting,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model directory, config.json, hub id, or a shape such as llama-3-70b.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="File of rows; without, --length and --rows stand for it.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Budget, such as 24GB or 24GiB; default: what is free.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Plan for this GPU, such as RTX4090; default: this machine.")] = None,
    length: Annotated[int | None, typer.Option(min=2, help="Tokens of every row.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="How many rows there are.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of the machine an hour, in any currency.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Say what memory and time a run takes, and how to compute it within a budget.

    \b
    lorica plan --model llama-3-8b --gpu RTX4090
    lorica plan --model config.json --memory 24GB --length 4096
    lorica plan config.yaml lora.r=16
    """
    from lorica.cli.terminal import print_json, quiet_libraries
    from lorica.run.plan import plan

    quiet_libraries()
    path, overrides = split_arguments(arguments or [])
    values: dict[str, Any] = {
        key: value for key, value in {"model": model, "data": one_or_many(data)}.items() if value is not None
    }
    asked: dict[str, Any] = {"memory": memory, "gpu": gpu, "length": length, "rows": rows}
    made = plan(path, overrides, values_origin="command line", **asked, **values)
    cost = None if price is None or made.seconds is None else price * made.seconds / 3600
    if as_json:
        print_json(made.to_dict() | {"cost": cost})
        return
    for line in lines(made, cost):
        typer.echo(line)


def lines(plan: "Plan", cost: float | None) -> list[str]:
    """The plan for people."""
    from lorica.planning.units import shown_bytes, shown_seconds

    machine, budget = plan.machine, shown_bytes(plan.budget)
    verdict = f"fits in {budget}" if plan.fits else f"does not fit in {budget}"
    told = [
        f"{verdict}: {shown_bytes(plan.peak_bytes)} at its peak on {machine.name}",
        f"{plan.trained:,} of {plan.parameters:,} parameters trained; {plan.engine}",
        "",
        *(f"  {term:<24} {shown_bytes(size):>9}" for term, size in plan.terms.items() if size),
        "",
    ]
    if plan.host_bytes:
        told.insert(-1, f"  {'(in host memory)':<24} {shown_bytes(plan.host_bytes):>9}")
    told += [f"  {key:<24} {value}" for key, value in plan.settings.items()]
    told += ["", f"{plan.tokens_per_second:,.0f} tokens/s ({machine.source})"]
    if plan.seconds is not None:
        told.append(f"{plan.steps:,} steps: {shown_seconds(plan.seconds)}")
    if plan.watt_hours is not None:
        told.append(f"at most {plan.watt_hours / 1000:,.2f} kWh at {machine.watts:.0f} W")
    if cost is not None:
        told.append(f"cost {cost:,.2f}")
    return told + plan.advice
