"""`lorica data preview`: chosen rows, token by token, as they will be trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np

from lorica.config import Resolved
from lorica.config.schema import RunConfig
from lorica.data import Example, StoredExamples, pack, step_rows
from lorica.data.branches import branches, texts
from lorica.data.cache import TokenisedRow
from lorica.data.encoding import decode
from lorica.data.findings import Findings
from lorica.data.formats import Record
from lorica.data.messages import Conversation
from lorica.data.preview import Preview, ShownExample, show
from lorica.data.stream import TokenisedRows
from lorica.data.template import REFUSALS
from lorica.run.check import capacity_of, check_rows, server_of
from lorica.run.rows import RunRows, Server, open_cache, read_rows
from lorica.run.watch import Watcher


def preview(
    resolved: Resolved,
    row: int | None = None,
    worst: int | None = None,
    packed: bool = False,
    watcher: Watcher | None = None,
) -> Preview:
    """Row number `row` (from 1; the first by default), the `worst` rows, or the first microbatch of the run.

    Rows are shown before anything is cut or dropped; a packed microbatch as it is trained. The worst rows are those
    with errors and warnings, then those with the smallest trained share.

    Raises:
        ValueError: there is no such row, or the rows cannot be read that far.
    """
    watcher = watcher or Watcher()
    config, server = server_of(resolved.config)
    if worst is None and not packed:
        with _tokenised(config, server, watcher) as rows:
            shown = [one for found in islice(rows, (row or 1) - 1, row or 1) for one in _of_row(*found, server)]
        if not shown:
            raise ValueError(f"there is no row {row or 1:,}: the data has fewer.")
        return Preview(shown)
    read = read_rows(config, server, watcher)
    shown = _microbatch(read.training, config, server) if packed else _worst(read, worst or 1, config, server, watcher)
    return Preview(shown, packed, check_rows(read, config))


@contextmanager
def _tokenised(config: RunConfig, server: Server, watcher: Watcher) -> Iterator[TokenisedRows]:
    cache = open_cache(config, config.data, server, watcher)
    try:
        yield TokenisedRows(config.data, server.tokenizer, server.stop_ids, cache, Findings())
    finally:
        cache.close()


def _of_row(record: Record, row: TokenisedRow, server: Server) -> Iterator[ShownExample]:
    if not row.examples:
        found = row.findings or [("trains nothing", "No token of it would be trained.")]
        ids = server.tokenizer(_text(record, server), add_special_tokens=False)["input_ids"]
        yield show(Example(record.source, ids, [0.0] * len(ids)), server.tokenizer, (), found)
    names = list(branches(record))
    for number, encoded in enumerate(row.examples, start=1):
        name = names[number - 1] if len(names) == len(row.examples) else f"part {number}"
        yield show(decode(encoded, record.source), server.tokenizer, server.stop_ids, row.findings, name)


def _text(record: Record, server: Server) -> str:
    """The text of a record of which nothing is trained, rendered if the tokenizer's own template takes it."""
    if isinstance(record, Conversation):
        try:
            return str(
                server.tokenizer.apply_chat_template(
                    record.messages, tools=record.tools, tokenize=False, **record.variables
                )
            )
        except REFUSALS:
            pass
    return "\n".join(text for branch in branches(record).values() for text in texts(branch))


def _worst(read: RunRows, count: int, config: RunConfig, server: Server, watcher: Watcher) -> list[ShownExample]:
    """All parts of the rows most in need of a look, the worst first."""
    suspicious = [row for finding in read.findings if finding.severity != "note" for row in finding.rows]
    order = list(dict.fromkeys([*suspicious, *_least_trained(read, count)]))[:count]
    shown: dict[str, list[ShownExample]] = {}
    with _tokenised(config, server, watcher) as rows:
        for record, row in rows:
            if record.source in order:
                shown[record.source] = list(_of_row(record, row, server))
            if len(shown) == len(order):
                break
    return [one for source in order for one in shown.get(source, [])]


def _least_trained(read: RunRows, count: int) -> list[str]:
    """Sources of the training examples of which the smallest share is trained."""
    share = read.training.supervised / np.maximum(read.training.tokens, 1)
    return [read.training.source(int(at)) for at in np.argsort(share, kind="stable")[:count]]


def _microbatch(training: StoredExamples, config: RunConfig, server: Server) -> list[ShownExample]:
    """The documents of the first microbatch of the first step."""
    if not training:
        return []
    capacity = capacity_of(config)
    rows = step_rows(len(training), config.train.batch_size, 0, config.train.seed)
    members = pack(training.tokens[rows].tolist(), capacity)[0]
    return [show(training[rows[member]], server.tokenizer, server.stop_ids) for member in members]
