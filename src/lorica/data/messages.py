"""Conversations as the chat template and the loss need them, from the messages that users write.

What belongs to training (`train`, `weight`) is taken out of the messages, so that the template sees exactly what a
server would give it; everything else passes through (tool calls, reasoning fields, whatever a template reads).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")
ROLES_OF_OTHER_FORMATS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant",
                          "ai": "assistant", "function": "tool", "observation": "tool", "ipython": "tool"}  # fmt: skip
MESSAGE_KEYS = ("role", "content", "train", "weight", "loss_weight", "name", "tool_calls", "tool_call_id", "tools",
                "reasoning", "reasoning_content", "thinking")  # fmt: skip
TRAINING_KEYS = ("train", "weight", "loss_weight")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages ready for a chat template, and the loss weight of each (0 for all but assistant messages)."""

    source: str
    messages: list[Message]
    weights: list[float]
    tools: list[Any] | None = None


def read_conversation(source: str, values: dict[str, Any], key: str = "messages") -> Conversation:
    """Reads the messages under `key` of a row, with the row's `tools` and `weight`.

    Raises:
        ValueError: naming the row and the message, for an unknown role, a misspelt key, content that is not text,
            or a weight that is not a finite number from 0.
    """
    messages = values[key]
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{source}: {key} must be a list of messages that is not empty; found {_brief(messages)}.")
    row_weight = read_weight(source, values)
    read = [_read_message(f"{source}, {key}[{index}]", message) for index, message in enumerate(messages)]
    return Conversation(
        source,
        [message for message, _ in read],
        [row_weight * weight for _, weight in read],
        _read_tools(source, values),
    )


def read_weight(place: str, values: dict[str, Any]) -> float:
    """The loss weight that a row or message asks for with `weight` (a number) and `train` (true or false)."""
    train = values.get("train", True)
    if not isinstance(train, bool):
        raise ValueError(f"{place}: `train` must be true or false; found {_brief(train)}.")
    weight = values.get("weight", values.get("loss_weight", 1.0))
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ValueError(
            f"{place}: `weight` must be a finite number from 0 (it scales the loss); found {_brief(weight)}."
        )
    return float(weight) if train else 0.0


@lru_cache(maxsize=1024)
def misspelt(key: str, known: tuple[str, ...]) -> str | None:
    """The known key that `key` is nearly, or None where it is one of them or like none."""
    near = get_close_matches(key, known, n=1, cutoff=0.8)
    return near[0] if near and key not in known else None


def _read_message(place: str, message: object) -> tuple[Message, float]:
    if not isinstance(message, dict):
        raise ValueError(f'{place}: expected {{"role": ..., "content": ...}}, found {_brief(message)}.')
    _check_keys(place, message)
    role = _read_role(place, message)
    clean = {key: value for key, value in message.items() if key not in TRAINING_KEYS}
    clean["content"] = _read_content(place, message)
    if clean.get("tool_calls"):
        clean["tool_calls"] = [_read_tool_call(place, call) for call in clean["tool_calls"]]
    weight = read_weight(place, message)
    if role != "assistant" and weight and any(key in message for key in TRAINING_KEYS):
        raise ValueError(f"{place}: asks to train a message of role {role}; only assistant messages can be trained.")
    return clean, weight if role == "assistant" else 0.0


def _check_keys(place: str, message: Message) -> None:
    for key in message:
        if near := misspelt(key, MESSAGE_KEYS):
            raise ValueError(f"{place}: unknown key {key!r}; did you mean {near!r}? Known: {', '.join(MESSAGE_KEYS)}.")
    if "role" not in message:
        raise ValueError(
            f"{place}: a message needs `role` and `content`; found the keys {', '.join(message) or 'none'}."
        )


def _read_role(place: str, message: Message) -> str:
    role = message["role"]
    if role in ROLES:
        return str(role)
    near = get_close_matches(str(role).lower(), [*ROLES, *ROLES_OF_OTHER_FORMATS], n=1)
    hint = f"; did you mean {ROLES_OF_OTHER_FORMATS.get(near[0], near[0])!r}?" if near else "."
    raise ValueError(f"{place}: unknown role {role!r}{hint} Known roles: {', '.join(ROLES)}.")


def _read_content(place: str, message: Message) -> str:
    """Text; a list of text parts is joined, and no content beside tool calls is the empty string, as servers do."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_read_part(place, part) for part in content)
    if content is None and message.get("tool_calls"):
        return ""
    raise ValueError(f"{place}: `content` must be text or a list of text parts; found {_brief(content)}.")


def _read_part(place: str, part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text":
        text = part.get("text", part.get("value"))
        if isinstance(text, str):
            return text
    raise ValueError(
        f'{place}: a content part must be {{"type": "text", "text": ...}}; found {_brief(part)}. Put reasoning in the '
        "message's `reasoning_content` and tool calls in its `tool_calls`."
    )


def _read_tool_call(place: str, call: object) -> object:
    """The call with its arguments as an object: servers parse them before the template sees them."""
    if not isinstance(call, dict):
        raise ValueError(f"{place}: a tool call must be an object; found {_brief(call)}.")
    inner = call.get("function", call)
    if not isinstance(inner, dict) or not isinstance(inner.get("arguments"), str):
        return call
    try:
        arguments = json.loads(inner["arguments"])
    except ValueError as error:
        raise ValueError(f"{place}: the tool call's `arguments` are not JSON: {_brief(inner['arguments'])}.") from error
    inner = {**inner, "arguments": arguments}
    return {**call, "function": inner} if "function" in call else inner


def _read_tools(source: str, values: dict[str, Any]) -> list[Any] | None:
    tools = values.get("tools")
    if isinstance(tools, str) and tools:
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise ValueError(f"{source}: `tools` is neither a list nor JSON text of one: {_brief(tools)}.") from error
    if not tools:
        return None
    if not isinstance(tools, list):
        raise ValueError(f"{source}: `tools` must be a list of tool descriptions; found {_brief(tools)}.")
    return tools


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:80] + "..."
