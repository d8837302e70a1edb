"""What would make a run fit that does not: changes the user has to decide on, as they change the result."""

from __future__ import annotations

import torch

from lorica.config.schema import RunConfig
from lorica.planning.machine import Machine
from lorica.planning.model import PlannedModel
from lorica.planning.plan import Plan, solver_for, spare_bytes, tensor_room
from lorica.planning.workload import Workload, even
from lorica.units import shown_bytes


def advice_for(
    plan: Plan, model: PlannedModel, config: RunConfig, workload: Workload, machine: Machine, dtype: torch.dtype
) -> list[str]:
    """Lines for a plan that does not fit: the least budget, and the nearest changes that fit in the one there is."""
    found = [f"The smallest budget that would do is {shown_bytes(plan.peak_bytes)}."]
    nearest = (plan.peak_bytes, "This run")
    for told, changed, length in changes(config, model, workload):
        if told.startswith("Both") and len(found) > 1:
            continue  # one change alone is enough
        work = workload if length is None else even(length, workload.rows, *_schedule(workload))
        solver = solver_for(model, changed, work, machine, dtype)
        least = solver.last().tensor_bytes
        taken = machine.overhead + least + spare_bytes(least, machine, solver.frozen)
        if least <= tensor_room(plan.budget, machine, solver.frozen):
            found.append(f"{told} fits: {shown_bytes(taken)} at the least.")
        else:
            nearest = min(nearest, (taken, told))
    if len(found) == 1:
        found.append(f"{nearest[1]} would still take {shown_bytes(nearest[0])}; take a smaller model or more memory.")
    return found


def changes(config: RunConfig, model: PlannedModel, workload: Workload) -> list[tuple[str, RunConfig, int | None]]:
    """Named changes to try, the mildest first: packed bases, an adapter in place of the whole model, shorter rows."""
    tried: list[tuple[str, RunConfig, int | None]] = []
    lora = config.model_copy(update={"method": "lora"})
    if config.method == "full":
        tried.append(("method: lora", lora, None))
    packed = lora
    if not model.is_packed and config.model.weights == "as-is":
        for weights in ("q8_0", "nf4"):
            packed = lora.model_copy(update={"model": lora.model.model_copy(update={"weights": weights})})
            method = ", method: lora" if config.method == "full" else ""
            tried.append((f"model.weights: {weights}{method}, which rounds the base,", packed, None))
    small = config.method == "lora" and config.lora.r > 8
    if small:
        tried.append(("lora.r: 8", with_rank(lora, 8), None))
    if small and packed is not lora:
        tried.append(("Both model.weights: nf4 and lora.r: 8", with_rank(packed, 8), None))
    for length in (workload.longest // 2, workload.longest // 8):
        if length >= 64:
            tried.append((f"Rows of at most {length:,} tokens", config, length))
            if packed is not lora:
                tried.append((f"Both model.weights: nf4 and rows of at most {length:,} tokens", packed, length))
    return tried


def with_rank(config: RunConfig, r: int) -> RunConfig:
    return config.model_copy(update={"lora": config.lora.model_copy(update={"r": r})})


def _schedule(workload: Workload) -> tuple[int, float, int | None]:
    return workload.batch_size, workload.epochs, workload.steps
