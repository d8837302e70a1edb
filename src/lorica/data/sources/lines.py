"""Lines of text files, with a limit on their length, so that a file without line breaks cannot fill the memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from lorica.data.faults import Faults, RowError
from lorica.units import shown_bytes

MAX_ROW_BYTES = 64 * 10**6
MAX_SKIPPED_BYTES = 16 * MAX_ROW_BYTES  # of one line: beyond, the file is no text of lines
AROUND = 30  # bytes or characters shown on each side of a fault
# The longer mark first: UTF-32's begins with UTF-16's.
OTHER_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
               codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}  # fmt: skip


def read_lines(name: str, file: BinaryIO, faults: Faults) -> Iterator[tuple[int, bytes]]:
    """Yields the number of each line, from 1, and its bytes with the line break; a byte order mark is left out.

    A line over MAX_ROW_BYTES is a fault.

    Raises:
        ValueError: the file is text of another encoding, or a line has no end.
    """
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            refuse_other_encodings(name, line)
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_ROW_BYTES:
            faults.add(f"{name}:{number}", RowError(f"{name}:{number}: {too_large('line')}"))
            _skip_rest(f"{name}:{number}", file, line)
            continue
        yield number, line


def _skip_rest(place: str, file: BinaryIO, line: bytes) -> None:
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_ROW_BYTES)
        skipped += len(line)
        if skipped > MAX_SKIPPED_BYTES:
            raise ValueError(
                f"{place}: this line goes on for over {shown_bytes(MAX_SKIPPED_BYTES)}, so it holds no rows."
            )


def too_large(what: str) -> str:
    return (
        f"this {what} is longer than {shown_bytes(MAX_ROW_BYTES)}, which is too much for a row. Cut it into several, "
        "or check that the file has line breaks."
    )


def refuse_other_encodings(name: str, start: bytes) -> None:
    """Raises ValueError where the first bytes of a file are those of UTF-16 or UTF-32, with their mark or without."""
    encoding = next((encoding for mark, encoding in OTHER_MARKS.items() if start.startswith(mark)), None)
    if encoding is None and 0 in start[:2] and any(start[:2]):  # a first character that takes two bytes
        encoding = "UTF-16LE" if start[1] == 0 else "UTF-16BE"
    if encoding is not None:
        raise ValueError(f"{name} is {encoding} text. Save it as UTF-8 (for example `iconv -f {encoding} -t utf-8`).")


def decode(place: str, raw: bytes) -> str:
    """UTF-8 text without the line break at its end.

    Raises:
        RowError: it is not UTF-8; says where.
    """
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        seen = raw[max(0, error.start - AROUND) : error.end + AROUND]
        raise RowError(
            f"{place}:{error.start + 1}: not UTF-8: the byte 0x{raw[error.start]:02x} in {seen!r}. "
            "Save the file as UTF-8 (for example `iconv -f latin1 -t utf-8`)."
        ) from error
