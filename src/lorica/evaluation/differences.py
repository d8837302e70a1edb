"""Which words of an answer are not in the reference, so that a reader sees at a glance where two texts differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_PIECES = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text, and whether it agrees with the reference."""

    text: str
    agrees: bool


def compare(text: str, references: Sequence[str]) -> list[Piece]:
    """The text cut where it starts or stops agreeing with the closest of the references; joined, it is the text."""
    words = _PIECES.findall(text.strip())
    matchers = [SequenceMatcher(None, _PIECES.findall(ref.strip()), words, autojunk=False) for ref in references]
    closest = max(matchers, key=SequenceMatcher.ratio)
    return [
        Piece("".join(words[start:end]), operation == "equal")
        for operation, _, _, start, end in closest.get_opcodes()
        if end > start
    ]
