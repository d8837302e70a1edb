"""`lorica plan`: from a configuration to what its run will take, without weights and if need be without rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorica import config as configuration
from lorica.config.schema import RunConfig
from lorica.data.gates import refuse
from lorica.models.precision import DTYPES, choose_device, choose_precision
from lorica.planning.advice import advice_for
from lorica.planning.gpus import Gpu, find_gpu
from lorica.planning.machine import Machine
from lorica.planning.model import PlannedModel, read_model
from lorica.planning.plan import Plan, check_length, make_plan
from lorica.planning.profile import this_machine
from lorica.planning.workload import Workload, even, of_rows
from lorica.run.check import server_of
from lorica.run.rows import DEFAULT_LENGTH, read_rows
from lorica.run.watch import Watcher
from lorica.units import parse_bytes

NO_ROWS = "<none>"  # stands for rows that a plan is made without; no file is called so
Asked = tuple[PlannedModel, RunConfig, Workload, Machine, torch.dtype, int | None]


@dataclass(frozen=True)
class Question:
    """What a plan is asked for beside the configuration. `length` and `rows` stand for rows that are not given."""

    memory: str | None = None
    gpu: str | None = None
    length: int | None = None
    rows: int | None = None


def plan(
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    memory: str | None = None,
    gpu: str | None = None,
    length: int | None = None,
    rows: int | None = None,
    watcher: Watcher | None = None,
    values_origin: str = "Python",
    **values: Any,
) -> Plan:
    """What a run would take, and the fastest way to compute it within `memory` ("24GB"; by default what is free here).

    Configured as `train` is, but for the rows, which may be left out: then they have `length` tokens, and there are
    `rows` of them. `gpu` names a GPU that need not be here. Raises ValueError for anything wrong with the input.
    """
    asked = ask(config, overrides, Question(memory, gpu, length, rows), watcher, values_origin, values)
    made = make_plan(*asked)
    if made.fits:
        return made
    model, given, workload, machine, dtype, _ = asked
    return replace(made, advice=advice_for(made, model, given, workload, machine, dtype))


def ask(
    config: str | Path | None,
    overrides: Sequence[str],
    question: Question,
    watcher: Watcher | None,
    origin: str,
    values: dict[str, Any],
) -> Asked:
    """Everything that a plan follows from."""
    given = configured(config, overrides, values, origin)
    budget = None if question.memory is None else parse_bytes(question.memory, "--memory")
    if budget is None and given.system.memory != "auto":
        budget = parse_bytes(given.system.memory, "system.memory")
    model = read_model(given.model.path, given.model.revision)
    watcher = watcher or Watcher()
    workload = workload_of(given, model, question, watcher)
    check_length(model, workload)
    machine, dtype = machine_for(given, model, question, watcher)
    return model, given, workload, machine, dtype, budget


def configured(
    config: str | Path | None, overrides: Sequence[str], values: dict[str, Any], origin: str = "Python"
) -> RunConfig:
    """The configuration of a run, with rows that stand for none where none are named."""
    if "data" not in values and config is None and not any(o.startswith("data") for o in overrides):
        values = {"data": NO_ROWS, **values}
    return configuration.load(config, list(overrides), values or None, origin).config


def machine_for(
    config: RunConfig, model: PlannedModel, question: Question, watcher: Watcher
) -> tuple[Machine, torch.dtype]:
    """The machine asked about, and the precision that the base would have there."""
    if question.gpu is not None:
        gpu = find_gpu(question.gpu)
        return gpu.machine, dtype_on(gpu, config)
    device = choose_device(config.system.device)
    machine = this_machine(device.type, notice=watcher.notice)
    if config.method == "full" and config.model.dtype == "auto":
        return machine, torch.float32
    return machine, choose_precision(config.model.dtype, model.stored, device).dtype


def dtype_on(gpu: Gpu, config: RunConfig) -> torch.dtype:
    if config.model.dtype != "auto":
        return DTYPES[config.model.dtype]
    return torch.bfloat16 if gpu.bf16 and config.method == "lora" else torch.float32


def workload_of(config: RunConfig, model: PlannedModel, question: Question, watcher: Watcher) -> Workload:
    train = config.train
    how = (train.batch_size, train.epochs, train.steps)
    if question.length is not None or config.data.path == NO_ROWS:
        usual = min(DEFAULT_LENGTH, config.data.max_length or DEFAULT_LENGTH, model.longest or DEFAULT_LENGTH)
        return even(question.length or usual, question.rows or 0, *how)
    config, server = server_of(config)
    read = read_rows(config, server, watcher)
    tokens = read.training.tokens.tolist()
    if not tokens:
        refuse(read.findings)
        raise ValueError(
            f"no rows of {', '.join(map(str, config.data.paths))} can be trained on; see: lorica data check"
        )
    return of_rows(tokens, int(read.training.supervised.sum()), *how)
