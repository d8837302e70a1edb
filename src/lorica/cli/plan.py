"""`lorica plan`: what a run will take, before it is run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorica.cli.arguments import Json, Settings, given, split_settings

if TYPE_CHECKING:
    from lorica.planning.compare import Row
    from lorica.planning.plan import Plan
    from lorica.run.plan import Asked


def plan_command(
    arguments: Settings = None,
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
    compare: Annotated[bool, typer.Option(help="Full fine-tuning, LoRA and packed bases side by side.")] = False,
    history: Annotated[bool, typer.Option(help="Predicted beside measured, of the runs on this machine.")] = False,
    price: Annotated[float | None, typer.Option(min=0, help="Price of the machine an hour, in any currency.")] = None,
    as_json: Json = False,
) -> None:
    """Say what memory and time a run takes, and how to compute it within a budget.

    \b
    lorica plan --model llama-3-8b --gpu RTX4090
    lorica plan --model config.json --memory 24GB --length 4096
    lorica plan config.yaml lora.r=16
    lorica plan --model llama-2-70b --compare --length 1024
    """
    if history:
        _history(as_json)
        return
    from lorica.cli.terminal import TerminalWatcher, print_json, quiet_libraries
    from lorica.run.plan import Question, ask, plan

    quiet_libraries()
    watcher = TerminalWatcher()
    path, overrides = split_settings(arguments)
    values = given(model, data)
    asked: dict[str, Any] = {"memory": memory, "gpu": gpu, "length": length, "rows": rows}
    if compare:
        _compare(ask(path, overrides, Question(**asked), watcher, "command line", values), price, as_json)
        return
    made = plan(path, overrides, watcher=watcher, values_origin="command line", **asked, **values)
    cost = _cost(made, price)
    if as_json:
        print_json(made.to_dict() | {"cost": cost})
    else:
        typer.echo("\n".join(lines(made, cost)))
    if not made.fits:
        raise typer.Exit(1)


def _compare(asked: "Asked", price: float | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from lorica.cli.terminal import print_json
    from lorica.planning.compare import compare
    from lorica.units import shown_bytes

    rows = compare(*asked)
    if as_json:
        print_json({"rows": [row.to_dict() | {"cost": _cost(row.plan, price)} for row in rows]})
        return
    first = rows[0].plan
    table = Table(
        box=None, header_style="bold", title=f"{first.machine.name}, {shown_bytes(first.budget)}", title_justify="left"
    )
    headings = ("", "peak", "least", "tokens/s", "time", "cost", "longest row", "GPUs")
    cells = [_cells(row, _cost(row.plan, price)) for row in rows]
    shown = [place for place in range(len(headings)) if any(row[place] for row in cells)]
    for place in shown:
        table.add_column(headings[place], overflow="fold")
    for row_cells in cells:
        table.add_row(*(row_cells[place] for place in shown))
    Console().print(table)


def _cells(row: "Row", cost: float | None) -> tuple[str, ...]:
    from lorica.planning.gpus import GPUS
    from lorica.units import shown_bytes, shown_seconds, shown_speed

    plan = row.plan
    return (
        row.way,
        shown_bytes(plan.peak_bytes) if plan.fits else "does not fit",
        shown_bytes(row.least_bytes),
        shown_speed(plan.tokens_per_second).removesuffix(" tokens/s") if plan.fits else "",
        shown_seconds(plan.seconds) if plan.fits and plan.seconds is not None else "",
        f"{cost:,.2f}" if plan.fits and cost is not None else "",
        f"{row.longest:,}" if row.longest is not None else "none",
        f"{len(row.gpus)} of {len(GPUS)}" + (f", from {smallest(row.gpus)}" if row.gpus else ""),
    )


def smallest(names: list[str]) -> str:
    """The GPU with the least memory."""
    from lorica.planning.gpus import GPUS

    return min((gpu for gpu in GPUS if gpu.name in names), key=lambda gpu: gpu.memory).name


def _cost(plan: "Plan", price: float | None) -> float | None:
    return None if price is None or plan.seconds is None else price * plan.seconds / 3600


def _history(as_json: bool) -> None:
    from lorica.cli.terminal import print_json
    from lorica.planning.history import history_path, read_history
    from lorica.units import shown_bytes

    runs = read_history()
    if as_json:
        print_json({"runs": runs})
        return
    if not runs:
        typer.echo(f"no run was planned and measured on this machine yet ({history_path()})")
    for run in runs:
        planned, measured = run["planned"], run["measured"]
        parts = []
        for key, show in (("peak_bytes", shown_bytes), ("tokens_per_second", lambda speed: f"{speed:,.0f} tokens/s")):
            if planned.get(key) and measured.get(key):
                share = 100 * (planned[key] / measured[key] - 1)
                parts.append(f"{show(planned[key])} planned, {show(measured[key])} measured ({share:+.0f} %)")
        typer.echo(f"{run['time']}  {run['run']}: {'; '.join(parts)}")


def lines(plan: "Plan", cost: float | None) -> list[str]:
    """The plan for people."""
    from lorica.units import shown_bytes, shown_seconds, shown_speed

    machine, work, peak = plan.machine, plan.workload, shown_bytes(plan.peak_bytes)
    where = f"{shown_bytes(plan.budget)} on {machine.name}"
    told = [
        f"fits in {where}: {peak} at its peak" if plan.fits else f"does not fit in {where}: {peak} at the least",
        f"{plan.trained:,} of {plan.parameters:,} parameters trained; {plan.engine}",
        f"rows of {work.longest:,} tokens{' at most' if len(set(work.lengths)) > 1 else ''}, {work.batch_size} a step",
        "",
        *(f"  {term:<24} {shown_bytes(size):>9}" for term, size in plan.terms.items() if size),
    ]
    if plan.host_bytes:
        told.append(f"  {'(in host memory)':<24} {shown_bytes(plan.host_bytes):>9}")
    told += ["", "computed with " + " ".join(as_arguments(plan.settings))]
    if not plan.fits:
        return [*told, *plan.advice]
    told.append(f"about {shown_speed(plan.tokens_per_second)} ({machine.source})")
    if plan.seconds is not None:
        told.append(f"{plan.steps:,} steps: {shown_seconds(plan.seconds)}")
    if plan.watt_hours is not None:
        told.append(f"at most {plan.watt_hours / 1000:,.2f} kWh at {machine.watts:.0f} W")
    if cost is not None:
        told.append(f"cost {cost:,.2f}")
    return told


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """As they are written behind `lorica train`."""
    found = []
    for name, value in settings.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{key}: {count}" for key, count in value.items())
            found.append(f"'system.{name}={{{inner}}}'")
        else:
            found.append(f"system.{name}={value}")
    return found
