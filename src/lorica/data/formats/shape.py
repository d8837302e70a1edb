"""What the values of a row look like: the questions by which formats are told apart."""

from __future__ import annotations

import json
from typing import Any

Values = dict[str, Any]

CONVERSATION_KEYS = ("messages", "conversations", "conversation")


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_messages(value: object, role: str = "role") -> bool:
    """Whether this is a list of messages whose first has a `role` (for ShareGPT: a `from`), or JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and role in value[0]


def is_message(value: object) -> bool:
    """Whether this is one message, of either spelling."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def is_answer(value: object) -> bool:
    """Whether this can be the answer to a prompt: text, a message, or a list of messages."""
    return is_text(value) or is_message(value) or is_messages(value) or is_messages(value, "from")


def is_prompt(value: object) -> bool:
    """Whether this can be a prompt: text, or a list of messages of either spelling."""
    return is_text(value) or is_messages(value) or is_messages(value, "from")


def conversation_key(values: Values) -> str | None:
    """The name under which a row holds its conversation, if it does."""
    return next((key for key in CONVERSATION_KEYS if key in values), None)


def is_verdict(value: object) -> bool:
    """Whether this says if an answer was desirable, which text does in a CSV file."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))
