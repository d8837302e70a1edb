"""Rows that judge answers: pairs of a chosen and a rejected one, and single answers with a verdict (KTO)."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from lorica.data.faults import RowError, brief
from lorica.data.formats.conversations import alpaca_prompt, read_alpaca, read_messages_row, read_sharegpt, with_system
from lorica.data.formats.pairs import answered, as_messages, read_pair
from lorica.data.formats.records import Completion, Judged, Preference
from lorica.data.formats.shape import conversation_key, is_messages
from lorica.data.messages import Conversation
from lorica.data.sources.row import Row
from lorica.data.supervision import BOOLEANS, Supervision

CHOSEN = ("chosen", "chosen_messages")
REJECTED = ("rejected", "rejected_messages")
VERDICT = ("label", "kto_tag")


def read_preference(row: Row, supervision: Supervision) -> Preference:
    """A row of `chosen` and `rejected`, with its prompt beside them or at the beginning of both.

    Raises:
        RowError: they have no prompt in common, or are the same.
    """
    keys = [next(key for key in names if key in row.values) for names in (CHOSEN, REJECTED)]
    chosen, rejected = (row.values[key] for key in keys)
    if chosen == rejected:
        raise RowError(f"{row.source}: {keys[0]!r} and {keys[1]!r} are the same, so neither is the better one.")
    prompt, prompt_key = _prompt(row, chosen, rejected)
    answers = (_without(prompt, answer) for answer in (chosen, rejected))
    read = (
        answered(row, prompt, prompt_key, answer, key, supervision) for answer, key in zip(answers, keys, strict=True)
    )
    return Preference(row.source, *read)


def _prompt(row: Row, chosen: Any, rejected: Any) -> tuple[Any, str]:
    """The prompt and where it stands: beside the answers, or at the beginning of both."""
    if "prompt" in row.values and not (_whole(chosen) and isinstance(row.values["prompt"], str)):
        return row.values["prompt"], "prompt"
    if key := conversation_key(row.values):
        return with_system(row, as_messages(row, row.values[key], key, "user")), key
    if "instruction" in row.values:
        return alpaca_prompt(row), "instruction"
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        raise RowError(f"{row.source}: a preference without a prompt; expected `prompt` or a common beginning.")
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    common: Any = chosen[: sum(1 for _ in shared)]
    if isinstance(chosen, str):  # the prompt ends with a whole word
        common = common[: max(common.rfind(" "), common.rfind("\n"), -1) + 1]
    if not common:
        raise RowError(
            f"{row.source}: chosen and rejected have no common beginning that could be their prompt; expected a field "
            f"`prompt` beside them. Found {brief(chosen)} and {brief(rejected)}."
        )
    return common, "chosen"


def _whole(answer: Any) -> bool:
    """Whether an answer is a whole conversation, its prompt included."""
    return (is_messages(answer) or is_messages(answer, "from")) and isinstance(answer, list) and len(answer) > 1


def _without(prompt: Any, answer: Any) -> Any:
    """An answer less the prompt that it begins with."""
    if isinstance(answer, str | list) and type(prompt) is type(answer) and answer[: len(prompt)] == prompt:
        return answer[len(prompt) :]
    return answer


def read_judged(row: Row, supervision: Supervision) -> Judged:
    """A row of an answer (prompt and completion, or a conversation) and `label` or `kto_tag`."""
    verdict = next(row.values[key] for key in VERDICT if key in row.values)
    verdict = BOOLEANS.get(verdict.strip().lower()) if isinstance(verdict, str) else verdict
    if not isinstance(verdict, bool):
        raise RowError(f"{row.source}: `label` must be true or false; found {brief(verdict)}.")
    return Judged(row.source, _answer(row, supervision), verdict)


def _answer(row: Row, supervision: Supervision) -> Conversation | Completion:
    if key := conversation_key(row.values):
        return (read_sharegpt if is_messages(row.values[key], "from") else read_messages_row)(row, supervision)
    question, read = ("prompt", read_pair) if "completion" in row.values else ("instruction", read_alpaca)
    if question not in row.values:
        raise RowError(f"{row.source}: an answer without its question; expected `{question}` beside it.")
    return read(row, supervision)
