"""A conversation without its texts: all that conversations which a template lays out alike have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorica.data.marks import FIRST, LAST, Text, mark, marked
from lorica.data.messages import Conversation
from lorica.data.turns import WRITTEN

MARKED = "\ue000"  # where there is a text

Outline = tuple[object, ...]  # the tools and variables, and one entry a message


def outline(conversation: Conversation) -> tuple[Outline, list[Text]]:
    """The outline of a prepared conversation, and its texts in the order of their marks."""
    texts: list[Text] = []
    entries: list[object] = [repr((conversation.tools, conversation.variables))]
    for index, message in enumerate(conversation.messages):
        entry: list[object] = []
        for key, value in message.items():
            if not isinstance(value, str):
                value = (repr(value),)
            elif key in WRITTEN and (core := value.strip()):
                texts.append(Text.of(index, key, value, core))
                value = MARKED
            entry += (key, value)
        entries.append(tuple(entry))
    return tuple(entries), texts


def twin_of(conversation: Conversation, texts: Sequence[Text]) -> Conversation | None:
    """The conversation with marks for its texts; None where something else in it would pass for a mark."""
    if len(texts) > LAST - FIRST:
        return None
    messages = [message.copy() for message in conversation.messages]
    for text in texts:
        del messages[text.message][text.key]
    if marked([conversation.tools, conversation.variables, messages]):
        return None
    messages = [message.copy() for message in conversation.messages]
    for number, text in enumerate(texts):
        messages[text.message][text.key] = mark(number)
    return replace(conversation, messages=messages)


def answers(conversation: Conversation) -> list[int]:
    """The assistant messages but one that opens the conversation: those that a server may have to generate."""
    return [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant" and index]
