"""The rows of a run: read through the cache, looked at by the gates, and divided into training and held-out rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lorica.config.schema import DataConfig, RunConfig
from lorica.data import Finding, StoredExamples, split_held_out
from lorica.data.cache import RowCache, cache_folder
from lorica.data.findings import Findings, counted
from lorica.data.gates import judge
from lorica.data.gates.together import look_at_held_out
from lorica.data.lengths import LengthPolicy
from lorica.data.mixture import mix
from lorica.data.read import Examples, survey
from lorica.data.row_key import row_context
from lorica.data.store import store
from lorica.run.watch import Watcher

SECONDS_BETWEEN_TELLING = 0.2
DEFAULT_LENGTH = 2048  # tokens of a row at most, for a model that names no limit


@dataclass(frozen=True)
class Server:
    """What of a model decides its rows' tokens: no weights are needed.

    `stop_ids` are those on which it stops; `vocabulary` is how many tokens it has embeddings for, None if unknown.
    """

    tokenizer: Any
    stop_ids: Sequence[int]
    vocabulary: int | None


@dataclass(frozen=True)
class RunRows:
    """`training` and `held_out` share no row; `findings` are of both, gravest first."""

    training: StoredExamples
    held_out: StoredExamples
    rows: int
    format: str
    findings: list[Finding]
    lengths: LengthPolicy
    conversational: bool


def read_rows(config: RunConfig, server: Server, watcher: Watcher) -> RunRows:
    """Reads and divides the rows. What would spoil the run is among the findings, as errors.

    Raises:
        ValueError: `data.gates` names no gate, or the tokenizer is a slow one.
    """
    read = _survey(config, config.data, server, watcher)
    training, held_out, findings = read.examples, store([]), Findings()
    others: list[Finding] = []
    if config.evaluate.enabled and _is_path(config.evaluate.held_out):
        other = _survey(config, config.data.model_copy(update={"path": config.evaluate.held_out}), server, watcher)
        held_out, others = other.examples, other.findings
        look_at_held_out(training, held_out, findings)
    elif config.evaluate.enabled and training:
        # The same rows whatever train.seed is: runs of several seeds are compared on what they hold out.
        training, held_out = split_held_out(training, config.evaluate.held_out, seed=0)
        _note_too_few(training, held_out, findings)
    training = mix(training, read.counts, [source.weight for source in config.data.sources[: len(read.counts)]])
    judged = judge(findings.all(), len(held_out), config.data.gates)
    order = ("error", "warn", "note")
    found = sorted([*read.findings, *others, *judged], key=lambda finding: order.index(finding.severity))
    return RunRows(training, held_out, read.rows, read.format, found, read.lengths, read.conversational)


def open_cache(config: RunConfig, data: DataConfig, server: Server, watcher: Watcher) -> RowCache:
    """The cache for these options and this tokenizer; to be closed."""
    context = row_context(data, server.tokenizer, server.stop_ids)
    return RowCache(cache_folder(config.system.cache), context, watcher.notice)


def _survey(config: RunConfig, data: DataConfig, server: Server, watcher: Watcher) -> Examples:
    assert config.data.max_length is not None
    cache = open_cache(config, data, server, watcher)
    try:
        return survey(
            data,
            server.tokenizer,
            config.data.max_length,
            server.stop_ids,
            vocabulary=server.vocabulary,
            cache=cache,
            progress=_telling(watcher),
        )
    finally:
        cache.close()


def _is_path(held_out: float | str) -> bool:
    return isinstance(held_out, str) and held_out != "auto"


def _note_too_few(training: StoredExamples, held_out: StoredExamples, findings: Findings) -> None:
    if not held_out:
        findings.add_rows(
            "too few rows to hold out",
            [],
            0,
            f"There is too little to share ({counted(len(training), 'example')}), so nothing will be measured before "
            "and after. Name a file of rows with evaluate.held_out, or a share such as evaluate.held_out=0.3.",
        )


def _telling(watcher: Watcher) -> Callable[[int], None]:
    """Tells the watcher how many rows were read, a few times a second; how many there are is not known."""
    told = time.monotonic()

    def tell(rows: int) -> None:
        nonlocal told
        if time.monotonic() - told >= SECONDS_BETWEEN_TELLING:
            told = time.monotonic()
            watcher.stage("reading rows", rows, 0)

    return tell
