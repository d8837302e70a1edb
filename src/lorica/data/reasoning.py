"""Reasoning in the messages of an assistant: in fields of its own, or inline between <think> and </think>."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorica.data.content import Content
from lorica.data.faults import RowError

REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
OPEN, CLOSE = "<think>", "</think>"
SPACED_CLOSE = re.compile(r"</think>\s*")


def without_reasoning(place: str, message: Mapping[str, Any], content: Content) -> tuple[dict[str, Any], Content]:
    """The message without its reasoning fields, and its content without reasoning, ranges moved with the text.

    Raises:
        RowError: a <think> that is never closed, so that nothing says where the answer begins.
    """
    cuts = inline_reasoning(content.text)
    if OPEN in content.text[cuts[-1][1] if cuts else 0 :]:
        raise RowError(f"{place}: {OPEN} without {CLOSE}, so data.reasoning: drop cannot tell it from the answer.")
    ranges = [(_moved(start, cuts), _moved(end, cuts), part) for start, end, part in content.ranges]
    kept = replace(content, text=_cut(content.text, cuts), reasoning="", ranges=ranges)
    return {key: value for key, value in message.items() if key not in REASONING_KEYS}, kept


def inline_reasoning(text: str) -> list[tuple[int, int]]:
    """Where `text` holds reasoning, tags and the space after them included.

    A first </think> without <think> closes reasoning that the template's generation prompt has opened.
    """
    found: list[tuple[int, int]] = []
    position = 0
    for close in SPACED_CLOSE.finditer(text):
        start = text.find(OPEN, position, close.start())
        if start >= 0 or not found:
            found.append((max(start, 0), close.end()))
        position = close.end()
    return found


def _cut(text: str, cuts: list[tuple[int, int]]) -> str:
    edges = [0, *(edge for cut in cuts for edge in cut), len(text)]
    return "".join(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


def _moved(position: int, cuts: list[tuple[int, int]]) -> int:
    """Where a character stands after the cuts."""
    return position - sum(min(position, end) - start for start, end in cuts if start < position)
