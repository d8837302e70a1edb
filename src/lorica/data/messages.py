"""Conversations as the chat template and the loss need them, from the messages that users write.

What belongs to training (`train`, `weight`) is taken out of the messages, so that the template sees exactly what a
server would give it; everything else passes through (tool calls, reasoning fields, whatever a template reads).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from lorica.data.content import Content, read_content
from lorica.data.faults import RowError, brief
from lorica.data.reasoning import REASONING_KEYS, without_reasoning
from lorica.data.supervision import TRAINING_KEYS, Supervision, read_weight
from lorica.data.tools import read_tool_call, read_tools

ROLES = ("system", "developer", "user", "assistant", "tool")
OTHER_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
               "function": "tool", "observation": "tool", "ipython": "tool"}  # fmt: skip
MESSAGE_KEYS = ("role", "content", *TRAINING_KEYS, "name", "tool_calls", "tool_call_id", "tools", *REASONING_KEYS)

VARIABLES = "chat_template_kwargs"

Message = dict[str, Any]
Ranges = list[tuple[int, int, float]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages ready for a chat template, and the loss weight of each.

    `parts` are characters of a message's content with a weight of their own: by the message's index, (start, end,
    weight), in order, in place of the message's weight. `reasoning` is "keep" where reasoning is context with no loss,
    whatever the weight of its message, else "train". `variables` are given to the template, before the run's own.
    """

    source: str
    messages: list[Message]
    weights: list[float]
    tools: list[Any] | None = None
    parts: dict[int, Ranges] = field(default_factory=dict)
    reasoning: str = "train"
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeighedMessage:
    """One message, its weight within its row, and the ranges of its content that have a weight of their own."""

    message: Message
    weight: float
    ranges: Ranges


def read_conversation(
    source: str, values: Mapping[str, Any], supervision: Supervision, key: str = "messages"
) -> Conversation:
    """Reads the messages under `key` of a row, with the row's `tools` and `weight`.

    Raises:
        RowError: naming the row and the message, for an unknown role, a misspelt key, content that is not text,
            or a weight that is not a finite number from 0.
    """
    return conversation(source, read_messages(source, values[key], supervision, key), values, supervision)


def conversation(
    source: str, read: list[WeighedMessage], values: Mapping[str, Any], supervision: Supervision
) -> Conversation:
    """The conversation of messages that were read, in a row of these values."""
    row = read_weight(source, values)
    roles = [str(one.message["role"]) for one in read]
    weights = supervision.only_last(roles, [row * one.weight for one in read])
    last_only = supervision.only_last(roles, [1.0] * len(read))
    ranges = (
        [(start, end, row * last * weight) for start, end, weight in one.ranges]
        for one, last in zip(read, last_only, strict=True)
    )
    return Conversation(
        source,
        [one.message for one in read],
        weights,
        read_tools(source, values.get("tools")),
        {index: found for index, found in enumerate(ranges) if found},
        "keep" if supervision.reasoning == "keep" else "train",
        _variables(source, values.get(VARIABLES)),
    )


def _variables(source: str, value: object) -> dict[str, Any]:
    """Values for the template that a row brings (TRL's column of that name); tables fill absent ones with nulls."""
    value = json_text(source, VARIABLES, value or {})
    if not isinstance(value, dict):
        raise RowError(f"{source}: `{VARIABLES}` must map names to values for the template; found {brief(value)}.")
    return {name: given for name, given in value.items() if given is not None}


def read_messages(source: str, messages: object, supervision: Supervision, key: str) -> list[WeighedMessage]:
    """Reads a list of messages, or JSON text of one, which stands under `key` of a row."""
    messages = json_text(source, key, messages)
    if not isinstance(messages, list) or not messages:
        raise RowError(f"{source}: {key} must be a list of messages that is not empty; found {brief(messages)}.")
    return [read_message(f"{source}, {key}[{index}]", message, supervision) for index, message in enumerate(messages)]


def json_text(source: str, key: str, value: object) -> object:
    """A list that a column of text holds as JSON; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{source}: {key} is neither a list nor JSON text of one: {brief(value)}.") from error


def context(supervision: Supervision) -> Supervision:
    """How a prompt is supervised: as context, unless prompts are trained too or a message asks for it."""
    return supervision if supervision.train_on == "all" else replace(supervision, train_on="none", role_weights={})


@lru_cache(maxsize=1024)
def misspelt(key: str, known: tuple[str, ...]) -> str | None:
    """The known key that `key` is nearly, or None where it is one of them or like none."""
    near = get_close_matches(key, known, n=1, cutoff=0.8)
    return near[0] if near and key not in known else None


def read_message(place: str, message: object, supervision: Supervision) -> WeighedMessage:
    """Reads one message; `place` names it."""
    if not isinstance(message, dict):
        raise RowError(f'{place}: expected {{"role": ..., "content": ...}}, found {brief(message)}.')
    _check_keys(place, message)
    role = _read_role(place, message)
    content = read_content(place, message)
    if supervision.reasoning == "drop" and role == "assistant":
        message, content = without_reasoning(place, message, content)
    ranges = [
        (start, end, supervision.message_weight(place, role, part)) for start, end, part in content.ranges
    ]  # fmt: skip
    clean = _clean(place, message, content) | {"role": role}
    return WeighedMessage(clean, supervision.message_weight(place, role, message), ranges)


def _clean(place: str, message: Message, content: Content) -> Message:
    """What the template sees: no training keys, and no nulls, which tables hold for keys that a row does not have."""
    clean = {key: value for key, value in message.items() if key not in TRAINING_KEYS and value is not None}
    clean["content"] = content.text
    if content.reasoning:
        clean["reasoning_content"] = clean.get("reasoning_content", "") + content.reasoning
    calls = [*_calls(place, clean.pop("tool_calls", [])), *content.calls]
    if isinstance(clean.get("function_call"), dict):  # OpenAI's first form of a call
        calls.append(clean.pop("function_call"))
    return clean | {"tool_calls": [read_tool_call(place, call) for call in calls]} if calls else clean


def _calls(place: str, calls: object) -> Iterable[object]:
    calls = json_text(place, "tool_calls", calls)
    if not isinstance(calls, list):
        raise RowError(f"{place}: `tool_calls` must be a list of calls; found {brief(calls)}.")
    return calls


def _check_keys(place: str, message: Message) -> None:
    for key in message:
        if near := misspelt(key, MESSAGE_KEYS):
            raise RowError(f"{place}: unknown key {key!r}; did you mean {near!r}? Known: {', '.join(MESSAGE_KEYS)}.")
    if "role" not in message:
        raise RowError(f"{place}: a message needs `role` and `content`; found the keys {', '.join(message) or 'none'}.")


def _read_role(place: str, message: Message) -> str:
    role = str(message["role"]).strip().lower()
    role = OTHER_NAMES.get(role, role)
    if role in ROLES:
        return role
    near = get_close_matches(role, ROLES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    known = f"{', '.join(ROLES)}; also {', '.join(OTHER_NAMES)}"
    raise RowError(f"{place}: unknown role {message['role']!r}{hint} Known roles: {known}.")
