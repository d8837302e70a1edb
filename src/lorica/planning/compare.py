"""Ways to fine-tune one model side by side: what each takes, how long, and which GPUs suffice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lorica.config.schema import RunConfig
from lorica.planning.gpus import GPUS, Gpu
from lorica.planning.machine import Machine
from lorica.planning.model import PlannedModel
from lorica.planning.plan import Plan, make_plan, tensor_room
from lorica.planning.workload import Workload, even

SHORT = 512  # tokens of the shorter of two rows that a straight line is drawn through
WAYS = ("full", "lora", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "nf4", "q3_k_m", "q2_k")


@dataclass(frozen=True)
class Row:
    """One way: its plan, the longest row that still fits in the budget (None: none does), and the GPUs, by name, that
    it fits on. `least_bytes` is the least memory that any setting takes."""

    way: str
    plan: Plan
    least_bytes: int
    longest: int | None
    gpus: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {"way": self.way, "least_bytes": self.least_bytes, "longest": self.longest, "gpus": self.gpus} | {
            key: value for key, value in self.plan.to_dict().items() if key != "machine"
        }


def compare(
    model: PlannedModel, config: RunConfig, workload: Workload, machine: Machine, dtype: torch.dtype, budget: int | None
) -> list[Row]:
    """A row for full fine-tuning in fp32, for LoRA on the base as it is, and for LoRA on packed bases."""
    rows = []
    for way in ("lora",) if model.is_packed else WAYS:
        changed = configured_as(config, way)
        kind = torch.float32 if way == "full" else dtype
        plan = make_plan(model, changed, workload, machine, kind, budget, exact=False)
        least = least_plan(plan)
        gpus = [gpu.name for gpu in GPUS if suffices(gpu, kind, least - machine.overhead)]
        rows.append(Row(way, plan, least, longest_row(plan, model), gpus))
    return rows


def suffices(gpu: Gpu, dtype: torch.dtype, taken: int) -> bool:
    """Whether the GPU multiplies `dtype` and holds so many bytes beside its context."""
    return (gpu.bf16 or dtype == torch.float32) and taken + gpu.machine.overhead <= gpu.machine.memory


def configured_as(config: RunConfig, way: str) -> RunConfig:
    """The same run done another way; an adapter that is to make up for packing starts plainly where there is none."""
    packed = way not in ("full", "lora")
    model = config.model.model_copy(update={"weights": way if packed else "as-is"})
    plain = config.lora.init_lora_weights == "loftq" and not packed
    lora = config.lora.model_copy(update={"init_lora_weights": True}) if plain else config.lora
    return config.model_copy(update={"method": "full" if way == "full" else "lora", "model": model, "lora": lora})


def least_plan(plan: Plan) -> int:
    """Bytes of the smallest plan, with what libraries take."""
    smallest = plan.solver.last()
    return plan.peak_bytes - plan.with_spare(plan.tensor_bytes) + plan.with_spare(smallest.tensor_bytes)


def longest_row(plan: Plan, model: PlannedModel) -> int | None:
    """The longest row that fits, by a straight line through two lengths: a step's memory grows with its tokens."""
    work, lengths = plan.workload, (SHORT, 2 * SHORT)
    sizes = [plan.solver.of(even(n, work.rows, work.batch_size, work.epochs, work.steps)).last() for n in lengths]
    slope = max(1e-9, (sizes[1].tensor_bytes - sizes[0].tensor_bytes) / SHORT)
    room = tensor_room(plan.budget, plan.machine, plan.solver.frozen)
    found = int(SHORT + (room - sizes[0].tensor_bytes) / slope)
    if found < 64:
        return None
    return min(found, model.longest) if model.longest is not None else found
