"""Which of the known shapes a row has: chat messages, a prompt with its completion, or plain text.

The shape is detected from the keys of every row, not only the first, and anything ambiguous is an error that lists the
candidates: a guess here would decide what is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lorica.data.findings import Findings
from lorica.data.messages import Conversation, misspelt, read_conversation, read_weight
from lorica.data.rows import Row

FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}
OTHER_KEYS = ("weight", "loss_weight", "train", "tools")
PREFERENCE_KEYS = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and its completion as plain strings, joined as they stand, without a chat template."""

    source: str
    prompt: str
    completion: str
    weight: float


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of it trained."""

    source: str
    text: str
    weight: float


Record = Conversation | Completion | Text


def read_records(rows: Iterable[Row], format: str, findings: Findings) -> tuple[list[Record], str]:
    """Reads rows as `format`, or as the one format that all of them have when it is "auto"; notes fields left unread.

    Returns:
        The records, and the name of the format they were read as.

    Raises:
        ValueError: naming the row, where a row lacks its fields, the format is ambiguous or rows differ in format.
    """
    records: list[Record] = []
    known, first = format, ""
    for row in rows:
        if format == "auto":
            detected = _detect(row)
            if first and detected != known:
                raise ValueError(
                    f"Rows of different formats: {first} has the keys of {known} and {row.source} those of {detected}. "
                    "Split the file, or name one format with `data.format`."
                )
            known, first = detected, first or row.source
        _check_row(row, known, findings)
        records.append(_read(row, known))
    return records, known


def _detect(row: Row) -> str:
    candidates = [name for name, keys in FORMATS.items() if all(key in row.values for key in keys)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ValueError(
            f"{row.source}: the keys {', '.join(row.values)} fit more than one format: {' and '.join(candidates)}. "
            f"Say which with `data.format`, for example data.format={candidates[0]}."
        )
    raise ValueError(f"{row.source}: cannot tell the format. {_expectation(row, list(FORMATS))}")


def _expectation(row: Row, formats: list[str]) -> str:
    """What was seen, what was expected, and the nearest spelling of a missing key."""
    expected = " or ".join(f"{name} ({_fields(name)})" for name in formats)
    missing = [key for name in formats for key in FORMATS[name] if key not in row.values]
    near = [(key, match) for key in row.values for match in get_close_matches(key, missing, n=1, cutoff=0.7)]
    hint = "".join(f" Did you mean {match!r} where it says {key!r}?" for key, match in near)
    return f"It has the keys {', '.join(row.values) or '(none)'}; expected {expected}. Rename the fields.{hint}"


def _fields(format: str) -> str:
    return ", ".join(FORMATS[format])


def _read(row: Row, format: str) -> Record:
    if format == "messages":
        return read_conversation(row.source, row.values)
    if format == "text":
        return Text(row.source, _text(row, "text"), read_weight(row.source, row.values))
    prompt, completion = row.values["prompt"], row.values["completion"]
    if isinstance(prompt, list):
        return _conversation(row, prompt, completion)
    return Completion(row.source, _text(row, "prompt"), _text(row, "completion"), read_weight(row.source, row.values))


def _check_row(row: Row, format: str, findings: Findings) -> None:
    if not all(key in row.values for key in FORMATS[format]):
        raise ValueError(f"{row.source}: this row is not {format}. {_expectation(row, [format])}")
    judged = format != "text" and isinstance(row.values.get("label"), bool)
    if judged or any(key in row.values for key in PREFERENCE_KEYS):
        raise ValueError(
            f"{row.source}: the keys {', '.join(row.values)} are those of preference data, and training on it as it "
            "stands would teach the rejected answers too. Keep the good answers and remove those fields."
        )
    templated = format == "messages" or isinstance(row.values.get("prompt"), list)
    for key in row.values:
        if key in FORMATS[format] or (key in OTHER_KEYS and (templated or key != "tools")):
            continue
        if near := misspelt(key, OTHER_KEYS):
            raise ValueError(f"{row.source}: unknown key {key!r}; did you mean {near!r}? If not, rename or remove it.")
        findings.add(f"field {key!r} is not read", row.source, f"Rows are read as {format}: {_fields(format)}.")


def _text(row: Row, key: str) -> str:
    value = row.values[key]
    if not isinstance(value, str):
        raise ValueError(f"{row.source}: {key!r} must be text; found {type(value).__name__}: {value!r:.80}")
    return value


def _conversation(row: Row, prompt: list[Any], completion: object) -> Conversation:
    """A prompt of messages: rendered with the chat template, and only the completion's messages trained."""
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    read_prompt = read_conversation(row.source, row.values, "prompt")
    answer = read_conversation(row.source, {**row.values, "completion": completion}, "completion")
    return Conversation(
        row.source,
        read_prompt.messages + answer.messages,
        [0.0] * len(prompt) + answer.weights,
        answer.tools,
    )
