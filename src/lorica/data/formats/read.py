"""From rows to records, one at a time: mapped, checked against the format of the first row, and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from lorica.data.faults import Faults, RowError
from lorica.data.findings import Findings
from lorica.data.formats.columns import Columns
from lorica.data.formats.detect import FORMATS, detect, expectation, mixed
from lorica.data.formats.records import Record
from lorica.data.messages import misspelt
from lorica.data.sources.row import Row
from lorica.data.supervision import TRAINING_KEYS, Supervision

JUDGING_KEYS = ("chosen", "rejected")


class Records:
    """The records of one source's rows, streaming; can be iterated once.

    `format` is the given one, or for "auto" that of the first row, once it was read. `rows` counts all rows so far.

    Raises (while iterating):
        ValueError: the format is ambiguous; or, at the end, rows cannot be read and are not skipped.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        format: str,
        supervision: Supervision,
        findings: Findings,
        faults: Faults,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.format, self.rows = format, 0
        self._named = format != "auto"
        self._first = ""
        self._source, self._supervision, self._findings, self._faults = rows, supervision, findings, faults
        self._mapped = tuple(columns or ())
        self._columns = Columns(columns or {})

    def __iter__(self) -> Iterator[Record]:
        read = 0
        for row in self._source:
            self.rows += 1
            try:
                record = self._read(row)
            except RowError as error:
                self._faults.add(row.source, error)
                continue
            if not self._faults.stopping:
                read += 1
                yield record
        self._faults.finish(read)

    def _read(self, row: Row) -> Record:
        # A table holds null for what a row does not have.
        row = Row(row.source, {key: value for key, value in row.values.items() if value is not None})
        self._note_replaced(row)
        row = self._columns(row)
        if self.format == "auto":
            self.format, self._first = detect(row, self._mapped), row.source
        elif not self._named and (error := mixed(row, self.format, self._first, self._mapped)):
            raise error
        self._check_keys(row)
        return FORMATS[self.format].read(row, self._supervision)

    def _note_replaced(self, row: Row) -> None:
        for key in self._columns.replaced(row):
            self._findings.add(
                f"field {key!r} is not read", row.source, f"data.columns makes {key!r} of other columns."
            )

    def _check_keys(self, row: Row) -> None:
        format = FORMATS[self.format]
        if not format.has_keys(row.values):
            raise RowError(f"{row.source}: this row is not {self.format}. {expectation(row, [self.format])}")
        if self.format not in ("preference", "kto"):
            _refuse_judgement(row)
        for key in row.values.keys() - format.fields:
            if near := misspelt(key, (*TRAINING_KEYS, *format.reads)):
                raise RowError(
                    f"{row.source}: unknown key {key!r}; did you mean {near!r}? If not, rename or remove it."
                )
            self._findings.add(
                f"field {key!r} is not read",
                row.source,
                f"{key!r} has no use: rows are read as {self.format} ({format.in_words()}).",
            )


def _refuse_judgement(row: Row) -> None:
    """A row of preference data, read as another format, would teach the rejected answers too."""
    answered = not row.values.keys() & {"text", "input_ids"}
    judged = answered and isinstance(row.values.get("label", row.values.get("kto_tag")), bool)
    if judged or any(key in row.values for key in JUDGING_KEYS):
        raise RowError(
            f"{row.source}: the keys {', '.join(row.values)} are those of preference data, and training on it as it "
            "stands would teach the rejected answers too. Keep the good answers and remove those fields."
        )
