"""The plan of a run that is about to begin, its base loaded and its rows read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lorica.config import Resolved, derive
from lorica.models import Base
from lorica.planning.model import PlannedModel
from lorica.planning.plan import Plan, make_plan
from lorica.planning.profile import this_machine
from lorica.planning.rehearsal import CannotRehearseError
from lorica.planning.workload import of_rows
from lorica.run.rows import RunRows
from lorica.run.watch import Watcher
from lorica.units import parse_bytes, shown_bytes


def plan_run(resolved: Resolved, base: Base, rows: RunRows, watcher: Watcher) -> tuple[Resolved, Plan | None]:
    """The settings of `system` that were left to be derived, and the plan that they are of; no plan for a model that
    cannot be rehearsed.

    Raises ValueError if `system.memory` is given and nothing fits in it.
    """
    config = resolved.config
    given = config.system.memory
    budget = None if given == "auto" else parse_bytes(given, "system.memory")
    model = PlannedModel(base.name, base.model.config, base.dtype, loaded=base.model)
    tokens = rows.training.tokens.tolist()
    train = config.train
    supervised = int(rows.training.supervised.sum())
    workload = of_rows(tokens, supervised, train.batch_size, train.epochs, train.steps)
    machine = this_machine(base.device.type, loaded_bytes(base), watcher.notice)
    try:
        plan = make_plan(model, config, workload, machine, base.dtype, budget)
    except CannotRehearseError as error:
        watcher.notice(f"no plan of memory: {error}")
        return resolved, None
    _check_fits(plan, given, watcher)
    return with_settings(resolved, plan.settings, "the fastest plan for the memory here"), plan


def with_settings(resolved: Resolved, settings: dict[str, Any], reason: str) -> Resolved:
    """With the planned settings where none were given."""
    for name, value in settings.items():
        if getattr(resolved.config.system, name) == "auto":
            resolved = derive(resolved, f"system.{name}", value, reason)
    return resolved


def loaded_bytes(base: Base) -> int:
    """What the base's tensors take."""
    tensors = (*base.model.parameters(), *base.model.buffers())
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def _check_fits(plan: Plan, given: str, watcher: Watcher) -> None:
    if plan.fits:
        return
    least = f"the least that it takes is about {shown_bytes(plan.peak_bytes)}"
    if given != "auto":
        raise ValueError(
            f"system.memory is {given}, and this run does not fit: {least}. {' '.join(plan.advice)}".strip()
        )
    watcher.notice(f"{shown_bytes(plan.budget)} of memory are free, and {least}; trying with the least")


def residual_of(plan: Plan, run: str, model: str, peak: int, speed: float | None) -> dict[str, Any]:
    """What the machine's history keeps of a run."""
    return {
        "time": datetime.now().isoformat(timespec="seconds"),
        "run": run,
        "model": model,
        "machine": plan.machine.name,
        "settings": plan.settings,
        "planned": {"peak_bytes": planned_peak(plan), "tokens_per_second": plan.tokens_per_second},
        "measured": {"peak_bytes": peak, "tokens_per_second": speed},
    }


def planned_peak(plan: Plan) -> int:
    """What is measured: on a GPU what tensors take, on a CPU the whole process."""
    return plan.tensor_bytes if plan.machine.device == "cuda" else plan.peak_bytes
