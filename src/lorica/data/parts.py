"""Content as a list of parts, which templates of models that also see images may ask for.

Some of them write nothing of a content that is text. Servers tell from the template and hand it parts (vLLM's
"openai" content format); here both are rendered once, and parts are given where only they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

PROBE = ({"role": "user", "content": "\ue000"}, {"role": "assistant", "content": "\ue001"})


def wants_parts(render: Callable[[list[dict[str, Any]]], str], refusals: tuple[type[Exception], ...]) -> bool:
    """Whether a template, by its `render`, writes contents only as parts; `refusals` are what it raises."""

    def writes(messages: list[dict[str, Any]]) -> bool:
        try:
            text = render(messages)
        except refusals:
            return False
        return all(message["content"] in text for message in PROBE)

    return not writes(list(PROBE)) and writes(as_parts(PROBE))


def as_parts(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with each text that is a content as a part."""
    return [
        message | {"content": [{"type": "text", "text": content}]}
        if isinstance(content := message.get("content"), str)
        else message
        for message in messages
    ]
