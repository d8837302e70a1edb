"""Which format a row has, from its keys and the kinds of their values.

Whatever fits more than one format is an error that lists the candidates: a guess here would decide what is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches

from lorica.data.faults import RowError, brief
from lorica.data.formats import conversations, judgements, pairs, tokens
from lorica.data.formats.records import Record
from lorica.data.formats.shape import (
    CONVERSATION_KEYS,
    Values,
    conversation_key,
    is_answer,
    is_messages,
    is_prompt,
    is_text,
    is_verdict,
)
from lorica.data.messages import VARIABLES
from lorica.data.sources.row import Row
from lorica.data.supervision import TRAINING_KEYS, Supervision

TOLD = ("tools", VARIABLES)  # what the template is told beside the messages


@dataclass(frozen=True, slots=True)
class Format:
    """One format: the fields it needs, others it reads, whether a row has its shape, and how to read one.

    Each of `needs` is a tuple of names of which a row has to have one.
    """

    needs: tuple[tuple[str, ...], ...]
    matches: Callable[[Values], bool]
    read: Callable[[Row, Supervision], Record]
    reads: tuple[str, ...] = ()

    @property
    def fields(self) -> set[str]:
        """Every name that this format reads."""
        return {*(name for names in self.needs for name in names), *self.reads, *TRAINING_KEYS}

    def in_words(self) -> str:
        """The fields it needs, by the first of their names."""
        return " + ".join(names[0] for names in self.needs)

    def has_keys(self, values: Values) -> bool:
        """Whether a row has the fields it needs, whatever their values."""
        return all(any(name in values for name in names) for names in self.needs)


def _holds(values: Values, role: str) -> bool:
    key = conversation_key(values)
    return key is not None and is_messages(values[key], role)


def _has_answer(values: Values) -> bool:
    return PAIR.matches(values) or ALPACA.matches(values) or _holds(values, "role") or _holds(values, "from")


def _is_preference(values: Values) -> bool:
    answers = [[values[name] for name in names if name in values] for names in PREFERENCE.needs]
    return all(len(found) == 1 and is_answer(found[0]) for found in answers)


MESSAGES = Format(
    (CONVERSATION_KEYS,), lambda row: _holds(row, "role"), conversations.read_messages_row, TOLD
)  # fmt: skip
SHAREGPT = Format(
    (("conversations", "conversation", "messages"),),
    lambda row: _holds(row, "from"),
    conversations.read_sharegpt,
    (*TOLD, "system"),
)
ALPACA = Format(
    (("instruction",), ("output",)),
    lambda row: is_text(row.get("instruction")) and is_text(row.get("output")),
    conversations.read_alpaca,
    ("input", "system", "history", *TOLD),
)
PAIR = Format(
    (("prompt",), ("completion",)),
    lambda row: is_prompt(row.get("prompt")) and is_answer(row.get("completion")),
    pairs.read_pair,
    TOLD,
)
TEXT = Format((("text",),), lambda row: is_text(row.get("text")), pairs.read_text)
TOKENS = Format(
    (("input_ids",),),
    lambda row: isinstance(row.get("input_ids"), list),
    tokens.read_tokens,
    ("labels", "attention_mask", *tokens.TRAINED_MASKS),
)
PREFERENCE = Format(
    (judgements.CHOSEN, judgements.REJECTED),
    _is_preference,
    judgements.read_preference,
    ("prompt", *CONVERSATION_KEYS, "instruction", "input", "system", "history", *TOLD),
)
KTO = Format(
    (judgements.VERDICT, ("completion", "output", *CONVERSATION_KEYS)),
    lambda row: any(is_verdict(row.get(key)) for key in judgements.VERDICT) and _has_answer(row),
    judgements.read_judged,
    ("prompt", "instruction", "input", "system", "history", *TOLD),
)
FORMATS: dict[str, Format] = {
    "messages": MESSAGES,
    "sharegpt": SHAREGPT,
    "alpaca": ALPACA,
    "prompt-completion": PAIR,
    "text": TEXT,
    "tokens": TOKENS,
    "preference": PREFERENCE,
    "kto": KTO,
}
JUDGEMENTS = ("preference", "kto")
# Names of other tools' fields, beside which `text` is hardly all that a row should train.
QUESTIONS = ("instruction", "question", "query", "input", "prompt", "problem")
ANSWERS = ("response", "reply", "answer", "output", "completion", "solution", "answers", "target")


def candidates(values: Values, mapped: Collection[str] = ()) -> list[str]:
    """The formats whose shape a row has. Those that judge answers contain the others, so they come alone.

    With a mapping of columns, only formats that read all that it maps to.
    """
    found = [name for name, format in FORMATS.items() if format.matches(values) and format.fields >= set(mapped)]
    judging = [name for name in JUDGEMENTS if name in found]
    return judging or found


def detect(row: Row, mapped: Collection[str] = ()) -> str:
    """The one format that a row has.

    Raises:
        RowError: the row has no shape at all, which says nothing of the rows after it.
        ValueError: none or several; says what was seen, what was expected, and what to do.
    """
    if not row.values:
        raise RowError(f"{row.source}: the row holds nothing.")
    found = candidates(row.values, mapped)
    key = conversation_key(row.values)
    if not found and key is not None:
        raise RowError(
            f"{row.source}: {key} must be a list of messages that is not empty, such as "
            f'{{"role": "user", "content": ...}}; found {brief(row.values[key])}.'
        )
    found = found or [name for name, format in FORMATS.items() if format.has_keys(row.values)]
    asked = [key for key in QUESTIONS if key in row.values]
    if found == ["text"] and asked and not mapped:
        raise ValueError(
            f"{row.source}: has a `text` and also {asked[0]!r}, so it may be plain text or a prompt with its answer. "
            "Say which: data.format=text trains the text alone; "
            f"data.columns='{{prompt: {asked[0]}, completion: text}}' trains it as the answer."
        )
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{row.source}: the keys {', '.join(row.values)} fit more than one format: {' and '.join(found)}. "
            f"Say which with `data.format`, for example data.format={found[0]}."
        )
    raise ValueError(f"{row.source}: cannot tell the format. {expectation(row, list(FORMATS))}")


def mixed(row: Row, format: str, first: str, mapped: Collection[str] = ()) -> RowError | None:
    """The error for a row that has another format than the first row, at `first`; None where it may have the same."""
    other = candidates(row.values, mapped)
    if format in other or not other:
        return None
    return RowError(
        f"Rows of different formats: {first} has the keys of {format} and {row.source} those of {' and '.join(other)}. "
        "Give each kind a file of its own (`data` may be a list), or name one format with `data.format`."
    )


def expectation(row: Row, formats: list[str]) -> str:
    """What was seen, what was expected, the nearest spelling of a missing key, and the mapping that may be meant."""
    expected = ", ".join(f"{name} ({FORMATS[name].in_words()})" for name in formats)
    known = {name for format in formats for name in FORMATS[format].fields}
    near = [
        (key, match)
        for key in row.values
        for match in get_close_matches(key, known - row.values.keys(), n=1, cutoff=0.7)
    ]
    hint = "".join(f" Did you mean {match!r} where it says {key!r}?" for key, match in near if key not in known)
    return (
        f"It has the keys {', '.join(row.values) or '(none)'}; expected {'one of ' * (len(formats) > 1)}{expected}. "
        f"Rename the fields, or say where they are with `data.columns`, for example data.columns='{{"
        f"{mapping(row.values)}}}'.{hint}{_header(row)}"
    )


def mapping(values: Values) -> str:
    """The mapping that may be meant: by what columns hold, else by words in their names, else the first two texts."""
    if listed := [name for name, value in values.items() if is_messages(value) or is_messages(value, "from")]:
        return f"messages: {_quoted(listed[0])}"
    asked, answered = _named(values, QUESTIONS), _named(values, ANSWERS)
    if asked and answered and asked != answered:
        return f"prompt: {_quoted(asked)}, completion: {_quoted(answered)}"
    texts = [name for name, value in values.items() if isinstance(value, str)]
    if len(texts) == 2:
        return f"prompt: {_quoted(texts[0])}, completion: {_quoted(texts[1])}"
    return f"text: {_quoted(texts[0]) if len(texts) == 1 else 'COLUMN'}"


def _named(values: Values, words: tuple[str, ...]) -> str | None:
    """The column whose name is one of these words, or has one."""
    exact = next((word for word in words if word in values), None)
    return exact or next((name for name in values for word in words if word in re.split(r"[\W_]+", name.lower())), None)


def _quoted(name: str) -> str:
    """A column's name as YAML holds it, where one that begins with a digit may be a number."""
    plain = re.fullmatch(r"[^\W\d][\w -]*", name) and name.lower() not in ("true", "false", "null")
    return name if plain else json.dumps(name, ensure_ascii=False)


def _header(row: Row) -> str:
    """A file without a header would have its first row taken for one."""
    table = any(kind in row.source.lower() for kind in (".csv", ".tsv"))
    return " (The first line of a table has to name its columns.)" if table else ""
