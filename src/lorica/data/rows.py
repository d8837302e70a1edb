"""Rows of JSON, each with the place it came from, and one clear error for whatever a file can do wrong.

Reads JSON Lines and a JSON list of objects, plain or gzipped. Lines are decoded one by one, so that an error can name
its line and so that memory holds one line beside the rows.
"""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lorica.data.sources.row import Row

SUPPORTED = "JSON Lines (.jsonl) or a JSON list of objects (.json), plain or gzipped (.gz)"
SUFFIXES = (".jsonl", ".json", ".ndjson")
AROUND = 30  # characters shown on each side of a fault


def read_rows(path: str | Sequence[str]) -> Iterator[Row]:
    """Yields the rows of one file or several, in order; blank lines and a byte order mark are skipped.

    Raises:
        ValueError: a file is missing, empty, of another format, not UTF-8, or holds something that is not a row.
    """
    for name in [path] if isinstance(path, str) else path:
        empty = True
        for row in _read_file(name):
            empty = False
            yield row
        if empty:
            raise ValueError(f"{name} holds no rows. Expected {SUPPORTED}.")


def _read_file(name: str) -> Iterator[Row]:
    path = Path(name)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not path.exists():
        raise ValueError(
            f"The data file {name} does not exist. Check `data.path`; relative paths start at {Path.cwd()}."
        )
    if path.is_dir():
        raise ValueError(f"The data path {name} is a folder. Name its files; supported: {SUPPORTED}.")
    compressed = suffixes[-1:] == [".gz"]
    if "".join(suffixes[-2:-1] if compressed else suffixes[-1:]) not in SUFFIXES:
        raise ValueError(f"Cannot tell how to read {name}: supported are {SUPPORTED}.")
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            yield from _parse(name, _without_mark(file))
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{name} is not a whole gzip file ({error}). Download or compress it again.") from error


def _without_mark(lines: Iterator[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


def _parse(name: str, lines: Iterator[bytes]) -> Iterator[Row]:
    for number, raw in enumerate(lines, start=1):
        line = _decode(f"{name}:{number}", raw)
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            rest = [_decode(f"{name}:{later}", raw) for later, raw in enumerate(lines, start=number + 1)]
            yield from _parse_list(name, number, "\n".join([line, *rest]))
            return
        yield _row(f"{name}:{number}", _load(name, number, line))


def _parse_list(name: str, number: int, text: str) -> Iterator[Row]:
    for index, value in enumerate(_load(name, number, text)):
        yield _row(f"{name}[{index}]", value)


def _decode(place: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        seen = raw[max(0, error.start - AROUND) : error.end + AROUND]
        raise ValueError(
            f"{place}:{error.start + 1}: not UTF-8: the byte 0x{raw[error.start]:02x} in {seen!r}. "
            "Save the file as UTF-8 (for example `iconv -f latin1 -t utf-8`)."
        ) from error


def _load(name: str, number: int, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        seen = text[max(0, error.pos - AROUND) : error.pos + AROUND]
        line = number + error.lineno - 1
        raise ValueError(
            f"{name}:{line}:{error.colno}: broken JSON: {error.msg} at {seen!r}. Expected one JSON object a line, "
            "or one list of objects for the whole file."
        ) from error
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{name}:{number}: cannot read this JSON: {reason}.") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON allows")


def _row(source: str, value: object) -> Row:
    if not isinstance(value, dict):
        seen = json.dumps(value)[: 2 * AROUND]
        raise ValueError(f"{source}: expected a JSON object ({{...}}), found {type(value).__name__}: {seen}")
    if (text := _lone_surrogate(value)) is not None:
        raise ValueError(
            f"{source}: the text {text!r} holds half of a surrogate pair, which is not a character and has no UTF-8 "
            "form. It is usually an emoji that was cut in two; remove it or write the whole character."
        )
    return Row(source, value)


def _lone_surrogate(value: dict[str, Any]) -> str | None:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return text[max(0, error.start - AROUND) : error.end + AROUND]
    return None
