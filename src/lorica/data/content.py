"""The content of a message: text, or a list of parts whose text is joined as a server joins it.

Parts may say `train` or `weight` for their own characters. Parts of reasoning and of tool calls, as LLaMA-Factory's
second format has them, go where servers put them: into the message's reasoning and its tool calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorica.data.faults import RowError, brief
from lorica.data.supervision import TRAINING_KEYS

TEXT, REASONING, CALL = ("text",), ("reasoning", "thinking"), ("tool_call", "function_call")
TEXT_KEYS = ("text", "value", "reasoning", "thinking")


@dataclass(slots=True)
class Content:
    """What the parts of a message come to. `ranges` are (start, end, part) of the text of parts that are weighed."""

    text: str = ""
    reasoning: str = ""
    calls: list[object] = field(default_factory=list)
    ranges: list[tuple[int, int, Mapping[str, Any]]] = field(default_factory=list)


def read_content(place: str, message: Mapping[str, Any]) -> Content:
    """The content of a message; none beside tool calls or reasoning is the empty string, as for servers.

    Raises:
        RowError: it is neither text nor a list of parts.
    """
    content = message.get("content")
    if isinstance(content, str):
        return Content(content)
    if isinstance(content, list):
        read = Content()
        for part in content:
            _add(place, part, read)
        return read
    if content is None and (message.get("tool_calls") or message.get("function_call")):
        return Content()
    raise RowError(f"{place}: `content` must be text or a list of text parts; found {brief(content)}.")


def _add(place: str, part: object, read: Content) -> None:
    if isinstance(part, str):
        read.text += part
        return
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in (*TEXT, *REASONING, *CALL):
        raise _refusal(place, part)
    if kind in CALL:
        read.calls += _calls(place, part)
        return
    text = next((part[key] for key in TEXT_KEYS if isinstance(part.get(key), str)), None)
    if text is None:
        raise _refusal(place, part)
    if kind in REASONING:
        read.reasoning += text
        return
    if any(part.get(key) is not None for key in TRAINING_KEYS):
        read.ranges.append((len(read.text), len(read.text) + len(text), part))
    read.text += text


def _calls(place: str, part: Mapping[str, Any]) -> list[object]:
    """One call, or a list of them, as JSON text or as it is."""
    value = part.get("value", part.get("function", part))
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowError(f"{place}: a tool call that is not JSON: {brief(value)}.") from error
    return value if isinstance(value, list) else [value]


def _refusal(place: str, part: object) -> RowError:
    return RowError(
        f'{place}: a content part must be {{"type": "text", "text": ...}}; found {brief(part)}. Put reasoning in the '
        "message's `reasoning_content` and tool calls in its `tool_calls`. Images and sound are not read."
    )
