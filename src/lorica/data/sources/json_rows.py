"""Rows of JSON: JSON Lines, or one list of objects. Memory holds a row or two, whatever the file.

The reader is our own because an error has to name line and column, and a broken line must not end the reading:
`datasets` reads blocks of lines with one error for all, and a JSON list whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from lorica.data.faults import Faults, RowError
from lorica.data.sources.json_list import read_list
from lorica.data.sources.json_values import JsonDecoder, broken
from lorica.data.sources.lines import AROUND, decode, read_lines
from lorica.data.sources.row import Row

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # UTF-8 itself cannot hold one
BLANK = b" \t\r\n\xef\xbb\xbf"


def read_json(name: str, file: BufferedReader, faults: Faults) -> Iterator[Row]:
    """The rows of a file; blank lines and a byte order mark are skipped. Places are "name:line" or "name[index]".

    Raises:
        ValueError: it is text of another encoding, or a list that is broken.
    """
    starts_list = file.peek(1).lstrip(BLANK).startswith(b"[")
    decoder = JsonDecoder()
    if starts_list:
        for index, (value, text) in enumerate(read_list(name, file, decoder)):
            place = f"{name}[{index}]"
            try:
                yield _row(place, value, text, decoder)
            except RowError as error:
                faults.add(place, error)
        return
    for number, raw in read_lines(name, file, faults):
        place = f"{name}:{number}"
        try:
            if (line := decode(place, raw)).strip():
                yield _row(place, _load(name, number, line, decoder), line, decoder)
        except RowError as error:
            faults.add(place, error)


def _load(name: str, number: int, line: str, decoder: JsonDecoder) -> Any:
    try:
        return decoder.decode(line)
    except json.JSONDecodeError as error:
        if number == 1 and line.strip() == "{":
            raise ValueError(
                f"{name} is one JSON object over several lines. Put its rows in one list, or write one object a line: "
                "`jq -c '.[]' FILE`, or `jq -c '.KEY[]' FILE` for the rows under a key."
            ) from error
        expected = "Expected one JSON object a line, or one list of objects for the whole file."
        raise broken(f"{name}:{number}:{error.colno}", error, line, expected) from error
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RowError(f"{name}:{number}: cannot read this JSON: {reason}.") from error


def _row(place: str, value: object, text: str, decoder: JsonDecoder) -> Row:
    if not isinstance(value, dict):
        raise RowError(f"{place}: expected a JSON object ({{...}}), found {type(value).__name__}: {text[: 2 * AROUND]}")
    if (key := decoder.take_repeated()) is not None:
        raise RowError(f"{place}: the key {key!r} stands twice in one object, so one value would be lost. Keep one.")
    if SURROGATE.search(text) and (cut := _lone_surrogate(value)) is not None:
        raise RowError(
            f"{place}: the text {cut!r} holds half of a surrogate pair, which is not a character and has no UTF-8 "
            "form. It is usually an emoji that was cut in two; remove it or write the whole character."
        )
    return Row(place, value)


def _lone_surrogate(value: dict[str, Any]) -> str | None:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return text[max(0, error.start - AROUND) : error.end + AROUND]
    return None
