"""From rows to questions with answers: what is asked of the model, and the texts its answer is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lorica.data.examples import Example


@dataclass(frozen=True, slots=True)
class Question:
    """One distinct prompt with every reference the rows give for it (E2E NLG gives several)."""

    prompt_ids: list[int]
    prompt: str
    references: list[str]
    source: str  # of the first row that asks it


@dataclass(frozen=True, slots=True)
class Answer:
    """A question's texts beside what the model generated; `finished` is False where it was cut before a stop token."""

    source: str
    prompt: str
    references: list[str]
    prediction: str
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def questions(rows: Sequence[Example], tokenizer: Any, stop_ids: Sequence[int], limit: int) -> list[Question]:
    """Groups rows that share a prompt; at most `limit` questions, spread evenly over the rows so that none is favoured.

    Plain text rows ask nothing and are left out. Texts are decoded with special tokens visible: what the model reads.
    """
    grouped: dict[tuple[int, ...], list[Example]] = {}
    for row in rows:
        if row.completion_start is not None:
            grouped.setdefault(tuple(row.input_ids[: row.completion_start]), []).append(row)
    chosen = spread(list(grouped.items()), limit)
    return [
        Question(
            prompt_ids=list(prompt),
            prompt=decode(tokenizer, prompt[1:] if prompt[:1] == (tokenizer.bos_token_id,) else prompt),
            references=list(dict.fromkeys(_reference(row, tokenizer, stop_ids) for row in members)),
            source=members[0].source,
        )
        for prompt, members in chosen
    ]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of the ids, nothing tidied and nothing hidden."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def without_stop(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    return list(ids[:-1] if len(ids) > 0 and ids[-1] in stop_ids else ids)


def spread(items: list[Any], limit: int) -> list[Any]:
    """At most `limit` items at even distances, the first among them."""
    if len(items) <= limit:
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def _reference(row: Example, tokenizer: Any, stop_ids: Sequence[int]) -> str:
    """The supervised text of the last turn; what a template writes after it (weight 0) is no part of the answer."""
    start = row.completion_start
    supervised = [t for t in range(len(row.input_ids)) if row.weights[t] > 0]
    end = supervised[-1] + 1 if supervised else len(row.input_ids)
    return decode(tokenizer, without_stop(row.input_ids[start:end], stop_ids))
