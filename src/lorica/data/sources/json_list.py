"""A JSON list, one value at a time: memory holds the largest value, not the list."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from lorica.data.sources.json_values import JsonDecoder, broken
from lorica.data.sources.lines import MAX_ROW_BYTES, refuse_other_encodings, too_large

READ = 1 << 20
SPACE = re.compile(r"[ \t\r\n]*")
LOOKED_AHEAD = 16  # characters that an error may be off the end of the text and still be due to it
EXPECTED = "Expected one list of objects."


def read_list(name: str, file: BinaryIO, decoder: JsonDecoder) -> Iterator[tuple[Any, str]]:
    """Yields each value of the list with its text.

    Raises:
        ValueError: naming line and column, where the list is broken (what follows cannot be told apart), goes on after
            its end, or a value is too large; or where the file is not UTF-8.
    """
    text = _Text(name, file)
    text.expect("[")
    if text.next() == "]":
        text.expect("]")
    else:
        yield text.value(decoder)
        while text.expect(",", "]") == ",":
            yield text.value(decoder)
    if text.next():
        raise ValueError(f"{text.place(text.at)}: the list has ended, and more follows. {EXPECTED}")


class _Text:
    """The text of a file from a place on: `text[at:]` is what was read and not yet used."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name, self._file = name, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at = "", 0
        self._line, self._column, self._ended = 1, 1, False
        self._bytes = 0

    def next(self) -> str:
        """The next character that is no white space, not used yet; empty at the end."""
        while True:
            found = SPACE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text) or self._ended:
                return self.text[self.at : self.at + 1]
            self._more()

    def expect(self, *allowed: str) -> str:
        """Uses one of these characters, after white space."""
        found = self.next()
        if found not in allowed or not found:
            expected = " or ".join(map(repr, allowed))
            what = f"found {self.text[self.at : self.at + 30]!r}" if found else "the file ends"
            raise ValueError(f"{self.place(self.at)}: broken JSON: expected {expected}, {what}. {EXPECTED}")
        self.at += 1
        return found

    def value(self, decoder: JsonDecoder) -> tuple[Any, str]:
        """Uses one value."""
        self.next()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self._ended or _certain(error, self.text):
                    raise ValueError(str(broken(self.place(error.pos), error, self.text, EXPECTED))) from error
            except (RecursionError, ValueError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise ValueError(f"{self.place(self.at)}: cannot read this JSON: {reason}.") from error
            else:
                if end + len("e+1") <= len(self.text) or self._ended:  # until then, a number may go on
                    text, self.at = self.text[self.at : end], end
                    return value, text
            if len(self.text) - self.at > MAX_ROW_BYTES:
                raise ValueError(f"{self.place(self.at)}: {too_large('value of the list')}")
            self._more()

    def place(self, position: int) -> str:
        """The file, line and column of a character."""
        line = self._line + self.text.count("\n", 0, position)
        begins = self.text.rfind("\n", 0, position)
        column = position - begins if begins >= 0 else self._column + position
        return f"{self._name}:{line}:{column}"

    def _more(self) -> None:
        """Forgets what was used, and reads as much again as is left."""
        used = self.text[: self.at]
        self._line += used.count("\n")
        self._column = self.at - used.rfind("\n") if "\n" in used else self._column + self.at
        raw = self._file.read(max(READ, len(self.text) - self.at))
        if not self._bytes:
            refuse_other_encodings(self._name, raw)
        try:
            self.text, self.at = self.text[self.at :] + self._decoder.decode(raw, not raw), 0
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._name}: not UTF-8 near its byte {self._bytes + error.start + 1:,}: {error.reason}. Save the "
                "file as UTF-8 (for example `iconv -f latin1 -t utf-8`)."
            ) from error
        self._bytes += len(raw)
        self._ended = not raw


def _certain(error: json.JSONDecodeError, text: str) -> bool:
    """Whether no further text could mend this."""
    return not error.msg.startswith("Unterminated") and error.pos + LOOKED_AHEAD < len(text)
