"""Texts, and the marks that stand for them in a twin of their conversation.

A mark is three characters: a line separator for the white space before the text, a private character with the text's
number, and a paragraph separator for the white space behind it. Python strips the separators as it strips any white
space, so a stripped mark still says exactly what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LEAD, TRAIL = "\u2028", "\u2029"
FIRST, LAST = 0xF0000, 0xFFFFD  # a private plane of Unicode
NUMBER = re.compile(f"[{chr(FIRST)}-{chr(LAST)}]")
MARK = re.compile(f"{LEAD}?{NUMBER.pattern}{TRAIL}?")
RESERVED = re.compile(f"[{LEAD}{TRAIL}{chr(FIRST)}-{chr(LAST)}]")
SEQUENCES = (list, tuple)  # a union of types would be made anew for each question
CHARACTER = re.compile(f"({RESERVED.pattern})")


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is not empty: `whole` is `lead` (white space), `core` and `trail` (white space).

    It stands under `key` of message `message`.
    """

    message: int
    key: str
    whole: str
    lead: str
    core: str
    trail: str

    @classmethod
    def of(cls, message: int, key: str, whole: str, core: str) -> Text:
        """`core` is `whole.strip()`."""
        if core == whole:
            return cls(message, key, whole, "", whole, "")
        start = len(whole) - len(whole.lstrip())
        return cls(message, key, whole, whole[:start], core, whole[start + len(core) :])

    def character(self, mark: str) -> str:
        """What one character of the text's mark stands for."""
        return self.lead if mark == LEAD else self.trail if mark == TRAIL else self.core


@dataclass(frozen=True, slots=True)
class Form:
    """A text with marks, split at their characters. `marks` are the pieces that are such: (piece, text's number)."""

    pieces: list[str]
    marks: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str) -> Form:
        """The form of this text."""
        pieces = CHARACTER.split(text)
        marks = []
        for piece, character in list(enumerate(pieces))[1::2]:
            whose = piece + 2 * ((character == LEAD) - (character == TRAIL))  # the private character is beside it
            marks.append((piece, ord(pieces[whose]) - FIRST))
        return cls(pieces, marks)

    def fill(self, texts: Sequence[Text]) -> list[str]:
        """The pieces with texts in place of the marks."""
        pieces = self.pieces.copy()
        for piece, number in self.marks:
            pieces[piece] = texts[number].character(pieces[piece])
        return pieces


Filling = Callable[[Sequence[Text]], Any]


def mark(number: int) -> str:
    """The mark of the text with this number."""
    return f"{LEAD}{chr(FIRST + number)}{TRAIL}"


def core_of(value: object) -> str | None:
    """The mark of a text's core, where `value` is the mark of a whole text."""
    is_mark = isinstance(value, str) and len(value) == 3 and value[0] == LEAD and value[2] == TRAIL
    return str(value)[1] if is_mark else None


def marked(value: object) -> bool:
    """Whether there is a mark, or a character of one, anywhere in a value of text, lists and dicts."""
    if isinstance(value, str):
        return not value.isascii() and RESERVED.search(value) is not None
    if isinstance(value, dict):
        return any(marked(key) or marked(item) for key, item in value.items())
    return isinstance(value, SEQUENCES) and any(map(marked, value))


def whole_marks(value: object) -> bool:
    """Whether no separator stands without the private character that says whose it is."""
    if isinstance(value, str):
        return RESERVED.search(MARK.sub("", value)) is None
    if isinstance(value, dict):
        return all(whole_marks(key) and whole_marks(item) for key, item in value.items())
    return not isinstance(value, SEQUENCES) or all(map(whole_marks, value))


def filling(value: Any) -> Filling:
    """What gives the value, of text with whole marks, lists and dicts, with texts in place of their marks."""
    if not marked(value):
        return lambda texts: value
    if isinstance(value, dict):
        pairs = [(filling(key), filling(item)) for key, item in value.items()]
        return lambda texts: {key(texts): item(texts) for key, item in pairs}
    if not isinstance(value, str):
        kind, items = type(value), [filling(item) for item in value]
        return lambda texts: kind(item(texts) for item in items)
    if core := core_of(value):
        return lambda texts: texts[ord(core) - FIRST].whole
    form = Form.of(value)
    return lambda texts: "".join(form.fill(texts))
