"""From a configuration to everything a run needs: the base, the rows, and every value that was left to be derived."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from lorica.config import Resolved, default_learning_rate, derive
from lorica.config.schema import EvaluateConfig, RunConfig
from lorica.data.gates import check_gates, refuse
from lorica.data.read import refuse_judgements
from lorica.evaluation.metrics import check_metric
from lorica.lora.weights import vocabulary_of
from lorica.models import Base, load
from lorica.models.fingerprint import hash_template
from lorica.models.precision import choose_device
from lorica.planning.plan import Plan
from lorica.run.planned import plan_run
from lorica.run.rows import DEFAULT_LENGTH, RunRows, Server, read_rows
from lorica.run.watch import Watcher
from lorica.training.schedule import total_steps, warmup_steps
from lorica.training.trackers import check_trackers
from lorica.units import shown_bytes

LOGITS_BYTES_PER_VALUE = 16  # logits, their fp32 copy, log-probabilities and gradient of one microbatch
LOGITS_BUDGET = 4 * 10**9


@dataclass
class Prepared:
    """`resolved` has every derived value filled in."""

    resolved: Resolved
    base: Base
    rows: RunRows
    capacity: int  # tokens of a microbatch; 1 computes every row alone
    plan: Plan | None = None
    origins: dict[str, Any] | None = None  # of a resumed run: what its first receipt says of the settings


def prepare(resolved: Resolved, watcher: Watcher) -> Prepared:
    """Load the base, read the rows, derive what is automatic. Raises ValueError for anything wrong with either."""
    config = resolved.config
    check_trackers(config.system.trackers)
    check_gates(config.data.gates)
    for metric in metric_names(config.evaluate):
        check_metric(metric)
    if config.system.threads != "auto":
        torch.set_num_threads(config.system.threads)
    if config.method == "full" and config.model.dtype == "auto":
        resolved = derive(resolved, "model.dtype", "fp32", "full fine-tuning trains the weights themselves")
    base = load(
        config.model.path,
        dtype=resolved.config.model.dtype,
        device=config.system.device,
        revision=config.model.revision,
        tokenizer=config.model.tokenizer,
        weights=config.model.weights,
        progress=lambda done, total: watcher.stage("hashing the base", done, total),
    )
    for note in base.notes:
        watcher.notice(note)
    resolved = _derive_model_values(resolved, base)
    rows = _rows(resolved.config, base, watcher)
    _use_template(config.data.chat_template, rows, base, watcher)
    _check_schedule(resolved.config, len(rows.training), watcher)
    resolved, plan = plan_run(resolved, base, rows, watcher)
    resolved = _derive_how(resolved, base)
    capacity = resolved.config.system.tokens_per_microbatch
    assert capacity != "auto"
    return Prepared(_derive_out(resolved), base, rows, capacity, plan)


def _rows(config: RunConfig, base: Base, watcher: Watcher) -> RunRows:
    vocabulary = vocabulary_of(base.model.get_input_embeddings())
    rows = read_rows(config, Server(base.tokenizer, sorted(base.stop_ids), vocabulary), watcher)
    refuse(rows.findings)
    refuse_judgements(rows.findings, rows.format)
    watcher.notice(f"read {rows.rows:,} rows as {rows.format}")
    if config.evaluate.enabled and config.evaluate.every is not None and not rows.held_out:
        raise ValueError(
            f"evaluate.every is {config.evaluate.every}, but no rows are held out: {len(rows.training)} rows are too "
            "few to share. Name a file of rows with evaluate.held_out, or a share such as evaluate.held_out=0.3."
        )
    return rows


def _check_schedule(config: RunConfig, rows: int, watcher: Watcher) -> None:
    """What is counted in steps has to lie within the run's."""
    train, every = config.train, config.evaluate.every
    steps = total_steps(rows, train.batch_size, train.epochs, train.steps)
    warmup_steps(steps, train.warmup)
    if train.batch_size > rows:
        watcher.notice(f"train.batch_size is {train.batch_size:,}, and there are {rows:,} rows: a step repeats some")
    if every is not None and every > steps:
        watcher.notice(f"evaluate.every is {every:,}, and the run has {steps:,} steps: measured before and after only")


def metric_names(evaluate: EvaluateConfig) -> list[str]:
    """The task metrics that are asked for, as a list in any case."""
    if evaluate.metric is None:
        return []
    return [evaluate.metric] if isinstance(evaluate.metric, str) else evaluate.metric


def _use_template(path: str | None, rows: RunRows, base: Base, watcher: Watcher) -> None:
    """Give the tokenizer the template that the rows were rendered with, so that it is saved and served with the run."""
    if path is None:
        return
    if not rows.conversational:
        watcher.notice(f"data.chat_template has no effect: the rows were read as {rows.format}, without conversations")
        return
    base.tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    base.hashes["template"] = str(hash_template(base.tokenizer))


def derive_values(resolved: Resolved, base: Base) -> Resolved:
    """With every value filled in that follows from the base and the machine, without a plan."""
    return _derive_how(_derive_model_values(resolved, base), base)


def _derive_model_values(resolved: Resolved, base: Base) -> Resolved:
    config = resolved.config
    if config.model.dtype == "auto":
        name = "bf16" if base.dtype == torch.bfloat16 else "fp32"
        resolved = derive(resolved, "model.dtype", name, base.dtype_reason)
    if config.train.lr is None:
        model_type = base.model.config.model_type
        lr, reason = default_learning_rate(base.hidden_size, str(model_type), config.method)
        resolved = derive(resolved, "train.lr", lr, reason)
    if config.data.max_length is None:
        reason = "all the model has positions for" if base.longest else "the model names no limit"
        resolved = derive(resolved, "data.max_length", base.longest or DEFAULT_LENGTH, reason)
    return _derive_system(resolved, base)


def _derive_system(resolved: Resolved, base: Base) -> Resolved:
    system = resolved.config.system
    if system.device == "auto":
        resolved = derive(resolved, "system.device", choose_device("auto").type, "the fastest that torch sees")
    if system.threads == "auto":
        resolved = derive(resolved, "system.threads", torch.get_num_threads(), "torch's choice for this machine")
    return resolved


def _derive_how(resolved: Resolved, base: Base) -> Resolved:
    """What no plan was made for: a model whose step cannot be rehearsed."""
    system = resolved.config.system
    if system.tokens_per_microbatch == "auto":
        tokens, reason = tokens_per_microbatch(base)
        resolved = derive(resolved, "system.tokens_per_microbatch", tokens, reason)
    if system.checkpointing == "auto":
        choice, reason = activation_checkpointing(base)
        resolved = derive(resolved, "system.checkpointing", choice, reason)
    return resolved


def tokens_per_microbatch(base: Base) -> tuple[int, str]:
    """As many tokens as keep the device busy, within a budget for the logits (tokens x vocabulary values)."""
    vocabulary = vocabulary_of(base.model.get_input_embeddings())
    # On a CPU a model's own layers take longer for a token in a longer row, because their mask costs the square.
    busy = 8192 if base.device.type == "cuda" else 256
    affordable = LOGITS_BUDGET // (LOGITS_BYTES_PER_VALUE * vocabulary)
    if affordable < busy:
        return max(256, affordable), f"{shown_bytes(LOGITS_BUDGET)} of logits over a vocabulary of {vocabulary:,}"
    return busy, f"enough to keep a {base.device.type} busy"


def activation_checkpointing(base: Base) -> tuple[str, str]:
    """Recompute on an accelerator when the weights leave less than half of its memory free."""
    if base.device.type != "cuda" or not getattr(base.model, "supports_gradient_checkpointing", False):
        return "none", "activations of a microbatch fit in memory"
    free, total = torch.cuda.mem_get_info(base.device)
    return ("full", "the base leaves less than half of the memory") if free < total / 2 else ("none", "memory is ample")


def _derive_out(resolved: Resolved) -> Resolved:
    if resolved.config.out is not None:
        return resolved
    rows = re.sub(r"[^\w.-]+", "-", Path(resolved.config.data.paths[0]).stem).strip("-.") or "rows"
    model = Path(resolved.config.model.path)
    name = model.stem if model.suffix == ".gguf" else model.name
    if name in ("hf", "model", "base"):  # a generic last name says nothing
        name = model.parent.name
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    return derive(resolved, "out", f"runs/{name}-{rows}-{time}", "model, data and time")
