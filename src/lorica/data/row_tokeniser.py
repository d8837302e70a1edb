"""Records to encoded examples, in chunks, through the cache: only rows it does not hold are rendered and tokenised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lorica.data.branches import branches
from lorica.data.cache import RowCache, TokenisedRow
from lorica.data.documents import documents
from lorica.data.encoding import encode
from lorica.data.findings import Findings
from lorica.data.formats import Record
from lorica.data.gates.row import look_at
from lorica.data.messages import Conversation
from lorica.data.row_key import row_key
from lorica.data.template import ChatTemplate
from lorica.data.tokenise import Tokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNUSABLE = "cannot be used"


class RowTokeniser:
    """Turns records into tokenised rows. `template` makes the chat template when the first conversation comes.

    Raises:
        ValueError: the tokenizer is a slow one, or conversations come and there is no template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Callable[[], ChatTemplate], cache: RowCache | None
    ) -> None:
        self._tokenizer, self._make_template, self._cache = tokenizer, template, cache
        self._tokeniser = Tokeniser(tokenizer)
        self._template: ChatTemplate | None = None

    def rows(self, records: Sequence[Record]) -> Iterator[tuple[Record, TokenisedRow]]:
        """Each record with its tokenised row, in order. A record that cannot be used has no examples and says why.

        The records come from different places.
        """
        keys = [row_key(record) for record in records]
        known = self._cache.get([key for key in keys if key is not None]) if self._cache is not None else {}
        missing = [record for key, record in zip(keys, records, strict=True) if key not in known]
        made = {record.source: row for record, row in zip(missing, self._tokenise(missing), strict=True)}
        for key, record in zip(keys, records, strict=True):
            yield record, made[record.source] if key not in known else known[key]
        if self._cache is not None:
            self._cache.put(
                {
                    key: made[record.source]
                    for key, record in zip(keys, records, strict=True)
                    if key is not None and record.source in made and not is_refused(made[record.source])
                }
            )

    def _tokenise(self, records: Sequence[Record]) -> list[TokenisedRow]:
        """All together, which is fast; where one of them cannot be used, in halves, until it stands alone."""
        if self._template is None and any(
            isinstance(branch, Conversation) for record in records for branch in branches(record).values()
        ):
            self._template = self._make_template()
        try:
            return self._together(records)
        except ValueError as error:
            if len(records) == 1:
                return [TokenisedRow([], [(UNUSABLE, str(error))])]
        half = len(records) // 2
        return self._tokenise(records[:half]) + self._tokenise(records[half:])

    def _together(self, records: Sequence[Record]) -> list[TokenisedRow]:
        findings = Findings()
        rows = {record.source: TokenisedRow([], []) for record in records}
        made = (
            document
            for record in records
            for branch in branches(record).values()
            for document in documents(branch, self._tokenizer, self._template, findings)
        )
        for example in self._tokeniser.examples(made, findings):
            rows[example.source].examples.append(encode(example))
        for source, found in findings.by_row().items():
            rows[source].findings.extend(found)
        for record in records:
            rows[record.source].findings.extend(look_at(record))
        return list(rows.values())


def is_refused(row: TokenisedRow) -> bool:
    """Whether the row's record could not be used."""
    return any(name == UNUSABLE for name, _ in row.findings)
