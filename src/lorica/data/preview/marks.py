"""White space and invisible characters made visible, for the terminal and the page."""

from __future__ import annotations

import unicodedata

# What is shown for a character; a line break also breaks the line.
MARKS = {"\n": "⏎\n", "\r": "␍", "\t": "⇥\t", "\u00a0": "⍽", "\u2028": "⏎\n", "\u3000": "□"}


def visible(text: str) -> str:
    """The text with line ends and invisible characters marked; control characters become their names, such as ␛.

    Nothing that comes out can move a terminal's cursor or reorder a page's text.
    """
    return "".join(MARKS.get(character) or _visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if character != " " and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"):
        return f"‹U+{code:04X}›"
    return character
