"""`lorica data check`: what a run's rows hold and what is wrong with them, without the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lorica.config import Resolved
from lorica.config.schema import RunConfig
from lorica.data import StoredExamples, pack, step_rows
from lorica.models.facts import read_facts
from lorica.run.rows import DEFAULT_LENGTH, RunRows, Server, read_rows
from lorica.run.watch import Watcher

STEPS_LOOKED_AT = 200
BINS = 12


def server_of(config: RunConfig) -> tuple[RunConfig, Server]:
    """The model's facts, and the configuration with the length that they leave to the rows."""
    facts = read_facts(config.model.path, config.model.revision, config.model.tokenizer)
    length = config.data.max_length or facts.longest or DEFAULT_LENGTH
    data = config.data.model_copy(update={"max_length": length})
    return config.model_copy(update={"data": data}), Server(facts.tokenizer, facts.stop_ids, facts.vocabulary)


def capacity_of(config: RunConfig) -> int:
    """Tokens of a microbatch, as far as that can be told without the model: as given, else one of the longest rows."""
    given = config.system.tokens_per_microbatch
    assert config.data.max_length is not None
    return config.data.max_length if given == "auto" else given


def check(resolved: Resolved, watcher: Watcher | None = None) -> dict[str, Any]:
    """Everything that can be said of the rows: counts, lengths, what length and packing cost, and all findings.

    `ok` is False where a finding would stop a run.

    Raises:
        ValueError: the model has no tokenizer, or a gate is named that does not exist.
    """
    config, server = server_of(resolved.config)
    return check_rows(read_rows(config, server, watcher or Watcher()), config)


def check_rows(read: RunRows, config: RunConfig) -> dict[str, Any]:
    """The same of rows that were read."""
    tokens = np.concatenate([read.training.tokens, read.held_out.tokens])
    supervised = int(read.training.supervised.sum() + read.held_out.supervised.sum())
    return {
        "ok": all(finding.severity != "error" for finding in read.findings),
        "rows": read.rows,
        "examples": {"training": len(read.training), "held_out": len(read.held_out)},
        "format": read.format,
        "tokens": int(tokens.sum()),
        "supervised_tokens": supervised,
        "supervised_share": supervised / max(1, int(tokens.sum())),
        "lengths": lengths(tokens),
        "max_length": config.data.max_length,
        "too_long": {"policy": config.data.too_long} | read.lengths.costs.to_dict(),
        "packing": packing(read.training, config),
        "findings": [finding.to_dict() for finding in read.findings],
    }


def lengths(tokens: np.ndarray) -> dict[str, Any]:
    """Quantiles and a histogram of lengths; `edges` are the bins' bounds, the last one inclusive."""
    if not len(tokens):
        return {}
    counts, edges = np.histogram(tokens, bins=min(BINS, int(np.ptp(tokens)) + 1))
    quantiles = {"shortest": 0, "median": 0.5, "p95": 0.95, "longest": 1}
    told = {name: int(np.quantile(tokens, at, method="nearest")) for name, at in quantiles.items()}
    return told | {"histogram": {"counts": counts.tolist(), "edges": np.ceil(edges).astype(int).tolist()}}


def packing(examples: StoredExamples, config: RunConfig) -> dict[str, Any]:
    """How full the microbatches of the first steps are: their tokens over what they could hold."""
    capacity, batch_size = capacity_of(config), config.train.batch_size
    told: dict[str, Any] = {"capacity": capacity, "batch_size": batch_size}
    if not examples:
        return told
    tokens = examples.tokens
    steps = min(STEPS_LOOKED_AT, -(-len(tokens) // batch_size))
    chosen = [tokens[step_rows(len(tokens), batch_size, step, config.train.seed)] for step in range(steps)]
    return told | {"steps": steps, "efficiency": efficiency(chosen, capacity)}


def efficiency(sets: Sequence[np.ndarray], capacity: int) -> float:
    """The share of all microbatches' tokens that is used when each set of examples (their lengths) is packed by itself.

    An example over the capacity fills a microbatch of its own.
    """
    packed = [(lengths, pack(lengths.tolist(), capacity)) for lengths in sets]
    held = sum(max(capacity, int(lengths[row].sum())) for lengths, rows in packed for row in rows)
    return sum(int(lengths.sum()) for lengths in sets) / max(1, held)
