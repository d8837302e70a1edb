"""What of a record is rendered: the record itself, or both answers of a preference."""

from __future__ import annotations

from lorica.data.formats import Completion, Judged, Preference, Record, Text, Tokens
from lorica.data.messages import Conversation

Branch = Conversation | Completion | Text | Tokens


def branches(record: Record) -> dict[str, Branch]:
    """The renderings of a record by name; that of a record with only one has none."""
    if isinstance(record, Preference):
        return {"chosen": record.chosen, "rejected": record.rejected}
    if isinstance(record, Judged):
        return {"desirable" if record.desirable else "undesirable": record.answer}
    return {"": record}


def texts(branch: Branch) -> list[str]:
    """What is written in it: contents of messages, a prompt and completion, or a text."""
    if isinstance(branch, Conversation):
        return [message["content"] for message in branch.messages if isinstance(message.get("content"), str)]
    if isinstance(branch, Completion):
        return [branch.prompt, branch.completion]
    return [branch.text] if isinstance(branch, Text) else []
