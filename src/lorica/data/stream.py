"""The rows of a configuration with what they became: sources -> records -> tokenised rows, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lorica.data.branches import branches, texts
from lorica.data.cache import RowCache, TokenisedRow
from lorica.data.faults import Faults
from lorica.data.findings import Findings
from lorica.data.formats import Record, Records
from lorica.data.row_tokeniser import RowTokeniser
from lorica.data.sources import read_rows
from lorica.data.supervision import Supervision
from lorica.data.template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorica.config.data_section import DataConfig, SourceConfig

CHUNK = 256  # rows rendered, tokenised and looked up together
CHUNK_CHARACTERS = 4_000_000


class TokenisedRows:
    """The rows of `config.path` with what they became, streaming; can be iterated once.

    Afterwards `formats` says what the rows of each source were read as, and `counts` how many there were.

    Raises (while iterating):
        ValueError: rows cannot be read, or there is no chat template for conversations.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        cache: RowCache | None,
        findings: Findings,
    ) -> None:
        self.formats: list[str] = []
        self.counts: list[int] = []
        self._config, self._findings = config, findings
        self._tokeniser = RowTokeniser(tokenizer, lambda: _template(config, tokenizer, stop_ids, findings), cache)

    def __iter__(self) -> Iterator[tuple[Record, TokenisedRow]]:
        for source in self._config.sources:
            records = self._records(source)
            self.counts.append(0)
            try:
                for chunk in _chunks(records):
                    self.counts[-1] += len(chunk)
                    yield from self._tokeniser.rows(chunk)
            finally:
                self.formats.append(records.format)

    @property
    def format(self) -> str:
        """What the rows were read as; several formats where sources differ."""
        return " and ".join(dict.fromkeys(self.formats)) or self._config.format

    def _records(self, source: SourceConfig) -> Records:
        faults = Faults(source.path, self._config.on_error == "skip", self._findings)
        supervision = Supervision.of(self._config)
        columns = {str(field): text for field, text in (source.columns or {}).items()}
        rows = read_rows(source, faults, self._findings)
        return Records(rows, source.format or "auto", supervision, self._findings, faults, columns or None)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Some records at a time, from different places, and not much text together."""
    chunk: dict[str, Record] = {}
    characters = 0
    for record in records:
        if len(chunk) == CHUNK or characters > CHUNK_CHARACTERS or record.source in chunk:
            yield list(chunk.values())
            chunk, characters = {}, 0
        chunk[record.source] = record
        characters += _characters(record)
    if chunk:
        yield list(chunk.values())


def _characters(record: Record) -> int:
    return sum(len(text) for branch in branches(record).values() for text in texts(branch))


def _template(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], findings: Findings
) -> ChatTemplate:
    path = config.chat_template
    template = ChatTemplate(tokenizer, path, stop_ids, config.chat_template_kwargs)
    if path and tokenizer.chat_template and template.source != tokenizer.chat_template:
        findings.add(
            "chat template is not the tokenizer's own",
            path,
            "Serve with this template too: with the tokenizer's own the model would see prompts it was not trained on.",
        )
    if "strftime_now" in str(template.source or tokenizer.chat_template):
        findings.add(
            "chat template shows the date",
            path or "the tokenizer's chat template",
            "Prompts hold the day on which they are rendered: a run resumed on another day reads other tokens.",
        )
    return template
