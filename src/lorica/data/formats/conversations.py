"""Rows that are conversations: OpenAI's messages, ShareGPT and Alpaca."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import count
from typing import Any

from lorica.data.faults import RowError, brief
from lorica.data.formats.shape import conversation_key
from lorica.data.messages import (
    Conversation,
    Message,
    conversation,
    json_text,
    misspelt,
    read_conversation,
    read_message,
)
from lorica.data.sources.row import Row
from lorica.data.supervision import Supervision

SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "function_call": "assistant",
    "observation": "tool", "tool": "tool", "function_response": "tool",
}  # fmt: skip
SHAREGPT_KEYS = ("from", "value", "train", "weight", "loss_weight")


def read_messages_row(row: Row, supervision: Supervision) -> Conversation:
    """A row of `messages`, or of `conversations` whose messages have roles."""
    return read_conversation(row.source, row.values, supervision, conversation_key(row.values) or "messages")


def read_sharegpt(row: Row, supervision: Supervision) -> Conversation:
    """A row of `conversations` of from/value turns, with an optional `system` text and `tools`."""
    key = conversation_key(row.values) or "conversations"
    turns = json_text(row.source, key, row.values[key])
    return _conversation(row, with_system(row, sharegpt_messages(row.source, key, turns)), supervision, key)


def sharegpt_messages(source: str, key: str, turns: object) -> list[Message]:
    """ShareGPT turns as messages. Each observation answers the oldest call that is still open, under a made-up id.

    Raises:
        RowError: the turns are no list of from/value, or one has an unknown role.
    """
    if not isinstance(turns, list) or not turns:
        raise RowError(f"{source}: {key} must be a list of turns that is not empty; found {brief(turns)}.")
    numbers, open_calls = count(), list[tuple[str, str]]()
    return [_turn(f"{source}, {key}[{i}]", turn, numbers, open_calls) for i, turn in enumerate(turns)]


def _turn(place: str, turn: object, numbers: count[int], open_calls: list[tuple[str, str]]) -> Message:
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        raise RowError(f'{place}: expected {{"from": ..., "value": ...}}, found {brief(turn)}.')
    for key in turn:
        if near := misspelt(key, SHAREGPT_KEYS):
            raise RowError(f"{place}: unknown key {key!r}; did you mean {near!r}?")
    speaker = turn["from"]
    if speaker not in SHAREGPT_ROLES:
        near_roles = get_close_matches(str(speaker).lower(), SHAREGPT_ROLES, n=1)
        hint = f"; did you mean {near_roles[0]!r}?" if near_roles else "."
        raise RowError(f"{place}: unknown role {speaker!r}{hint} Known roles: {', '.join(SHAREGPT_ROLES)}.")
    message = {"role": SHAREGPT_ROLES[speaker], "content": turn["value"]}
    message |= {key: value for key, value in turn.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return message | _calls(place, turn["value"], numbers, open_calls)
    if message["role"] == "tool" and open_calls:
        id, name = open_calls.pop(0)
        return message | {"tool_call_id": id, "name": name}
    return message


def _calls(place: str, value: object, numbers: count[int], open_calls: list[tuple[str, str]]) -> Message:
    """The calls of a function_call turn; text before the JSON, which may be reasoning, stays its content."""
    if not isinstance(value, str):
        raise RowError(f"{place}: `value` must be text; found {brief(value)}.")
    thought, closed, rest = value.rpartition("</think>")
    found = json_text(place, "function_call", rest)
    calls = found if isinstance(found, list) else [found]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise RowError(f'{place}: a function_call must be {{"name": ..., "arguments": ...}}; found {brief(rest)}.')
    # Nine letters and digits: the one form of id that every template accepts (Mistral's refuse all others).
    ids = [f"call{next(numbers):05d}" for _ in calls]
    open_calls += [(id, call["name"]) for id, call in zip(ids, calls, strict=True)]
    named = [{"id": id} | call for id, call in zip(ids, calls, strict=True)]
    return {"content": thought + closed, "tool_calls": named}


def read_alpaca(row: Row, supervision: Supervision) -> Conversation:
    """A row of `instruction`, `output`, and perhaps `input`, `system` and `history`, as a conversation."""
    return _conversation(row, [*alpaca_prompt(row), {"role": "assistant", "content": text(row, "output")}], supervision)


def alpaca_prompt(row: Row) -> list[Message]:
    """The messages before the answer: system, history, and the instruction with its input on the next line."""
    question = "\n".join(filter(None, (text(row, "instruction"), text(row, "input", ""))))
    history = json_text(row.source, "history", row.values.get("history") or [])
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise RowError(f"{row.source}: `history` must be a list of [question, answer]; found {brief(history)}.")
    turns = [
        {"role": role, "content": said}
        for pair in history
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    return with_system(row, [*turns, {"role": "user", "content": question}])


def with_system(row: Row, messages: list[Message]) -> list[Message]:
    """The messages after the row's `system` text, if it has one.

    Raises:
        RowError: they begin with a system message of their own.
    """
    system = text(row, "system", "")
    if not system:
        return messages
    if messages[0]["role"] == "system":
        raise RowError(f"{row.source}: has both a `system` field and a system message; keep one of them.")
    return [{"role": "system", "content": system}, *messages]


def text(row: Row, key: str, default: str | None = None) -> str:
    """The text under `key`; with a default, also where there is none.

    Raises:
        RowError: there is none, or something else.
    """
    value: Any = row.values.get(key, default)
    if not isinstance(value, str):
        raise RowError(f"{row.source}: {key!r} must be text; found {other_than_text(key, value)}")
    return value


def other_than_text(key: str, value: object) -> str:
    """What stands where a text belongs; of a number also how to make it one."""
    hint = ""
    if isinstance(value, int | float):
        hint = f". Make it text: data.columns='{{{key}: \"{{{{ {key} | string }}}}\"}}'"
    return f"{type(value).__name__}: {brief(value)}{hint}"


def _conversation(row: Row, messages: list[Message], supervision: Supervision, key: str | None = None) -> Conversation:
    read = [
        read_message(f"{row.source}, {key}[{index}]" if key else row.source, message, supervision)
        for index, message in enumerate(messages)
    ]
    return conversation(row.source, read, row.values, supervision)
