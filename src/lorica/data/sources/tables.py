"""Rows of CSV and TSV files: every value is text, as it stands.

Read with the standard library, because `datasets` (pandas) guesses types: "007" becomes 7, "NA" and "None" nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from lorica.data.faults import Faults, RowError
from lorica.data.findings import listing
from lorica.data.sources.lines import MAX_ROW_BYTES, decode, read_lines
from lorica.data.sources.row import Row

DELIMITERS = (",", ";", "\t", "|")


def read_table(name: str, file: BinaryIO, faults: Faults) -> Iterator[Row]:
    """The rows under a header of column names; blank lines are skipped. Places are "name:line", the line it begins on.

    The delimiter is the first of comma, semicolon, tab and | that stands in the header (a tab for .tsv). A column
    without a name, such as the index that pandas writes, is called by its number.

    Raises:
        ValueError: the header has a name twice.
    """
    lines = _Lines(name, file, faults)
    delimiter = "\t" if ".tsv" in name.lower() else next((mark for mark in DELIMITERS if mark in lines.first), ",")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = f"{name}:{lines.number + 1}"
        try:
            values = _next(reader, place)
            if values is None:
                return
            if not values:
                continue
            if header is None:
                header = _checked(place, values)
            else:
                yield Row(place, dict(zip(header, _matching(place, values, header), strict=True)))
        except RowError as error:
            if header is None:
                raise ValueError(str(error)) from error
            faults.add(place, error)


class _Lines:
    """The lines of a file as text; `number` of those read so far, and the `first`."""

    def __init__(self, name: str, file: BinaryIO, faults: Faults) -> None:
        self._name, self.number = name, 0
        self._lines = read_lines(name, file, faults)
        self._head = next(self._lines, None)
        self.first = "" if self._head is None else self._head[1].decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, raw = self._head if self._head is not None else next(self._lines)
        self._head, self.number = None, number
        return decode(f"{self._name}:{number}", raw) + "\n"


def _next(reader: Iterator[list[str]], place: str) -> list[str] | None:
    limit = csv.field_size_limit(MAX_ROW_BYTES)  # of the whole process, so it is put back at once
    try:
        return next(reader, None)
    except csv.Error as error:
        hint = "A quote that it opens may not be closed; inside quotes, a quote is written twice."
        raise RowError(f"{place}: broken CSV: {error}. {hint}") from error
    finally:
        csv.field_size_limit(limit)


def _checked(place: str, header: list[str]) -> list[str]:
    header = [column.strip() or f"column {number}" for number, column in enumerate(header, start=1)]
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        columns = listing(header)
        raise ValueError(f"{place}: the header has the column {repeated[0]!r} twice; its columns are {columns}.")
    return header


def _matching(place: str, values: list[str], header: list[str]) -> list[str]:
    if len(values) != len(header):
        raise RowError(
            f"{place}: {len(values)} values where the header has {len(header)} columns ({listing(header)}). Put values "
            "with a delimiter or a line break in quotes."
        )
    return values
