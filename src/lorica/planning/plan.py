"""A plan: what a run will take and how it will be computed, and if it does not fit, what would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lorica.config.schema import RunConfig
from lorica.planning.fit import Choice, Solver, capacities_for, ladder_for
from lorica.planning.keeping import checkpointing_of, policies_of
from lorica.planning.ledger import HOST, TERMS
from lorica.planning.machine import Machine
from lorica.planning.model import PlannedModel
from lorica.planning.rehearsal import Rehearsal
from lorica.planning.whole import Moment
from lorica.planning.workload import Workload

LESS = 0.8  # of a plan that ran out of memory, what the next one may take
LIBRARIES, ROUNDING = "libraries and context", "allocator"
# Of what is not weights, the share that the allocator holds beside it: on a CPU glibc's heap, measured by
# benchmarks/plan_resident.py; on a GPU, an assumption, reserved over allocated memory.
SPARE = {"cpu": 0.10, "cuda": 0.04, "mps": 0.10}


@dataclass(frozen=True)
class Plan:
    """`terms` (bytes) are what is held at the peak and make up `peak_bytes`; `tensor_bytes` are those of tensors alone,
    which `torch.cuda.max_memory_allocated` counts too. `settings` are the keys of `system` that carry it out."""

    fits: bool
    budget: int
    peak_bytes: int
    tensor_bytes: int
    terms: dict[str, int]
    host_bytes: int
    tokens_per_second: float
    steps: int | None
    seconds: float | None
    settings: dict[str, Any]
    engine: str
    machine: Machine
    moments: list[Moment]
    trained: int
    parameters: int
    advice: list[str]
    solver: Solver
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        return {
            "fits": self.fits,
            "budget_bytes": self.budget,
            "peak_bytes": self.peak_bytes,
            "tensor_bytes": self.tensor_bytes,
            "host_bytes": self.host_bytes,
            "terms": self.terms,
            "tokens_per_second": self.tokens_per_second,
            "steps": self.steps,
            "seconds": self.seconds,
            "watt_hours": self.watt_hours,
            "settings": self.settings,
            "engine": self.engine,
            "machine": {"name": self.machine.name, "source": self.machine.source},
            "trained_parameters": self.trained,
            "parameters": self.parameters,
            "advice": self.advice,
        }

    def with_spare(self, tensor_bytes: int) -> int:
        """What tensors of so many bytes take with the allocator's share."""
        return tensor_bytes + spare_bytes(tensor_bytes, self.machine, self.solver.frozen)

    @property
    def workload(self) -> Workload:
        return self.solver.workload

    @property
    def timeline(self) -> dict[str, Any]:
        """Bytes by term over the stages of a step: `[name, at its beginning, at its peak]`."""
        stages = [
            [moment.name, [moment.held[term] for term in TERMS], [moment.peak[term] for term in TERMS]]
            for moment in self.moments
        ]
        return {"terms": list(TERMS), "stages": stages}

    def smaller(self) -> Plan | None:
        """The next plan that takes clearly less, whatever the settings of `system` were; None if there is none."""
        self.solver.free()
        choice = self.solver.best(int(self.tensor_bytes * LESS))
        return None if choice is None else _plan(self.solver, choice, self.machine, self.budget, self.fits)

    @property
    def watt_hours(self) -> float | None:
        """At the maker's power limit: an upper bound."""
        if self.machine.watts is None or self.seconds is None:
            return None
        return self.machine.watts * self.seconds / 3600


def make_plan(
    model: PlannedModel,
    config: RunConfig,
    workload: Workload,
    machine: Machine,
    dtype: torch.dtype,
    budget: int | None,
    *,
    exact: bool = True,
) -> Plan:
    """The fastest way to run `config` on `machine` within `budget` bytes (None: its free memory), or the smallest; if
    not `exact`, nearly the smallest, sooner.

    Raises ValueError for a model that cannot be made or adapted, and rows longer than it has positions for.
    """
    check_length(model, workload)
    solver = solver_for(model, config, workload, machine, dtype)
    budget = machine.memory if budget is None else budget
    room = tensor_room(budget, machine, solver.frozen)
    found = solver.best(room)
    choice = found or (solver.smallest() if exact else solver.last())
    return _plan(solver, choice, machine, budget, found is not None)


def solver_for(
    model: PlannedModel, config: RunConfig, workload: Workload, machine: Machine, dtype: torch.dtype
) -> Solver:
    device = torch.device("cpu" if machine.device == "cpu" else "cuda")
    plain = config.model_copy(update={"system": config.system.model_copy(update={"checkpointing": "none"})})
    rehearsal = Rehearsal.of(model, plain, dtype, device)
    supports = bool(getattr(rehearsal.subject.model, "supports_gradient_checkpointing", False))
    recomputing = None
    if not rehearsal.is_lean and supports:
        full = config.model_copy(update={"system": config.system.model_copy(update={"checkpointing": "full"})})
        recomputing = Rehearsal.of(model, full, dtype, device)
    given = config.system.tokens_per_microbatch
    capacities = capacities_for(workload, machine.device, rehearsal.is_lean) if given == "auto" else [given]
    ladder = ladder_for(rehearsal, recomputing is not None, machine.device, workload.microbatch_tokens(capacities[0]))
    solver = Solver(rehearsal, recomputing, machine, workload, capacities, ladder)
    if config.system.checkpointing != "auto":
        solver.fixed = policies_of(config.system.checkpointing, solver.layers, machine.device == "cpu")
    return solver


def tensor_room(budget: int, machine: Machine, frozen: int) -> int:
    """What a budget leaves for tensors, `frozen` bytes of weights among them."""
    left = budget - machine.overhead
    if left <= frozen:
        return left
    room = frozen + int((left - frozen) / (1 + SPARE[machine.device])) + 1
    return room if room + spare_bytes(room, machine, frozen) <= left else room - 1


def spare_bytes(tensor_bytes: int, machine: Machine, frozen: int) -> int:
    """What the allocator holds beside tensors; weights, which come first and stay, leave it no gaps."""
    return max(0, int((tensor_bytes - frozen) * SPARE[machine.device]))


def check_length(model: PlannedModel, workload: Workload) -> None:
    if model.longest is not None and workload.longest > model.longest:
        raise ValueError(
            f"rows of {workload.longest:,} tokens are longer than the {model.longest:,} positions that {model.name} "
            f"has; plan with --length {model.longest} or less (data.max_length={model.longest} in a run)."
        )


def _plan(solver: Solver, choice: Choice, machine: Machine, budget: int, fits: bool) -> Plan:
    spare = spare_bytes(choice.tensor_bytes, machine, solver.frozen)
    held = choice.step.peak.peak
    terms = {term: size for term, size in held.most_common() if size > 0 and term != HOST}
    terms |= {ROUNDING: spare, LIBRARIES: machine.overhead}
    steps = solver.workload.total_steps
    return Plan(
        fits=fits,
        budget=budget,
        peak_bytes=choice.tensor_bytes + spare + machine.overhead,
        tensor_bytes=choice.tensor_bytes,
        terms=terms,
        host_bytes=choice.step.host_bytes,
        tokens_per_second=choice.tokens_per_second,
        steps=steps,
        seconds=None if steps is None else steps * choice.seconds,
        settings=settings_of(choice, solver.rehearsal.is_lean, machine.device == "cpu"),
        engine=solver.rehearsal.engine,
        machine=machine,
        moments=choice.step.moments,
        trained=solver.rehearsal.trained,
        parameters=solver.rehearsal.parameters,
        advice=[],
        solver=solver,
        choice=choice,
    )


def settings_of(choice: Choice, lean: bool, on_cpu: bool) -> dict[str, Any]:
    """The settings of `system` that make a run of the choice."""
    checkpointing = checkpointing_of(choice.policies, lean, on_cpu)
    return {"tokens_per_microbatch": choice.tokens, "checkpointing": checkpointing}
