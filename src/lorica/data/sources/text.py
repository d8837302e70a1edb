"""Rows of plain text: lines, paragraphs between blank lines, or whole documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from lorica.data.faults import Faults, RowError
from lorica.data.sources.lines import MAX_ROW_BYTES, decode, read_lines, too_large
from lorica.data.sources.row import Row


def read_text(name: str, file: BinaryIO, faults: Faults, sample_by: str) -> Iterator[Row]:
    """Rows of one field, `text`. Places are "name:line", the line a row begins on. Blank lines alone are no row.

    A paragraph or document with a line that cannot be read is left out whole, as one fault.
    """
    for place, lines in _pieces(name, file, faults, sample_by):
        try:
            if sum(len(line) for _, line in lines) > MAX_ROW_BYTES:
                raise RowError(f"{place}: {too_large(sample_by)}")
            text = "\n".join(decode(f"{name}:{number}", line) for number, line in lines)
        except RowError as error:
            faults.add(place, error)
        else:
            yield Row(place, {"text": text})


def _pieces(name: str, file: BinaryIO, faults: Faults, sample_by: str) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """The lines of each row; of one that is too large, as many as show it."""
    held: list[tuple[int, bytes]] = []
    size = 0
    for number, line in read_lines(name, file, faults):
        blank = not line.strip()
        if held and (sample_by == "line" or (sample_by == "paragraph" and blank)):
            yield f"{name}:{held[0][0]}", held
            held, size = [], 0
        if (not blank or (held and sample_by == "document")) and size <= MAX_ROW_BYTES:
            held.append((number, line))
            size += len(line)
    if held:
        yield f"{name}:{held[0][0]}", held
