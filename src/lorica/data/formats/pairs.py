"""Rows of a prompt and its completion, as plain text or as messages, and rows of plain text."""

from __future__ import annotations

from typing import Any

from lorica.data.faults import RowError
from lorica.data.formats.conversations import other_than_text, sharegpt_messages, text
from lorica.data.formats.records import Completion, Text
from lorica.data.formats.shape import is_message, is_messages
from lorica.data.messages import Conversation, Message, context, conversation, json_text, read_message
from lorica.data.sources.row import Row
from lorica.data.supervision import Supervision, read_weight


def read_text(row: Row, supervision: Supervision) -> Text:
    """A row of `text`, all of it trained."""
    return Text(row.source, text(row, "text"), read_weight(row.source, row.values))


def read_pair(row: Row, supervision: Supervision) -> Completion | Conversation:
    """A row of `prompt` and `completion`."""
    return answered(row, row.values["prompt"], "prompt", row.values["completion"], "completion", supervision)


def answered(
    row: Row, prompt: Any, prompt_key: str, answer: Any, answer_key: str, supervision: Supervision
) -> Completion | Conversation:
    """A prompt with one of its answers; the keys say where they stand in the row.

    Plain text with plain text is a Completion; messages are a Conversation, rendered with the chat template, of which
    only the answer is trained unless prompts are trained too.

    Raises:
        RowError: either is of another kind.
    """
    if isinstance(prompt, str) and not is_messages(prompt):
        if isinstance(answer, str) and not is_messages(answer):
            weight = read_weight(row.source, row.values)
            return Completion(row.source, prompt, answer, weight, weight if supervision.train_on == "all" else 0.0)
        prompt = [{"role": "user", "content": prompt}]
    asked = as_messages(row, prompt, prompt_key, "user")
    answers = as_messages(row, answer, answer_key, "assistant")
    read = [read_message(f"{row.source}, {prompt_key}[{i}]", m, context(supervision)) for i, m in enumerate(asked)]
    read += [read_message(f"{row.source}, {answer_key}[{i}]", m, supervision) for i, m in enumerate(answers)]
    return conversation(row.source, read, row.values, supervision)


def as_messages(row: Row, value: object, key: str, role: str) -> list[Message]:
    """Messages from what stands under `key`: messages of either spelling, one of them, or text said by `role`.

    Raises:
        RowError: it is none of these.
    """
    value = json_text(row.source, key, value) if is_messages(value) or is_messages(value, "from") else value
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if is_message(value):
        value = [value]
    if is_messages(value, "from"):
        return sharegpt_messages(row.source, key, value)
    if isinstance(value, list) and value:
        return value
    raise RowError(f"{row.source}: {key!r} must be text or messages; found {other_than_text(key, value)}")
