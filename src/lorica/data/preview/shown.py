"""What a preview shows, apart from how: tokens with their text, weight and role, for terminal, page and JSON alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lorica.data.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INCOMPLETE = "\ufffd"
WINDOW = 8  # tokens decoded together: more than any character or decoder's look-back needs


@dataclass(frozen=True, slots=True)
class ShownToken:
    """`text` is what the token adds to the text; empty where it is only a part of a character, which the token that
    ends the character shows. `special` tokens are control tokens; `stop` ends a trained turn."""

    id: int
    text: str
    weight: float
    special: bool = False
    stop: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "text": self.text, "weight": self.weight}


@dataclass(frozen=True, slots=True)
class ShownExample:
    """One example. `title` tells branches of a preference row apart; `findings` are (name, message) of its row."""

    source: str
    title: str
    tokens: list[ShownToken]
    findings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def supervised(self) -> int:
        return sum(token.weight != 0 for token in self.tokens)

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "title": self.title,
            "text": self.text,
            "tokens": [token.to_dict() for token in self.tokens],
            "findings": [{"name": name, "message": message} for name, message in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Preview:
    """Examples to show. `documents` of one packed row belong together where `packed`; `summary` is that of a check."""

    examples: list[ShownExample]
    packed: bool = False
    summary: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """`text` and `tokens` of all that is shown, end to end; `examples` apart."""
        return {
            "text": "".join(example.text for example in self.examples),
            "tokens": [token.to_dict() for example in self.examples for token in example.tokens],
            "examples": [example.to_dict() for example in self.examples],
            "packed": self.packed,
            "summary": self.summary,
        }


def show(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Collection[int],
    findings: Sequence[tuple[str, str]] = (),
    title: str = "",
) -> ShownExample:
    """The example's tokens with their texts, which together are the text that the ids decode to."""
    special = set(tokenizer.all_special_ids) | {
        id for id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    tokens = [
        ShownToken(id, text, weight, id in special, weight != 0 and id in stop_ids)
        for id, text, weight in zip(
            example.input_ids, pieces(example.input_ids, tokenizer), example.weights, strict=True
        )
    ]
    return ShownExample(example.source, title, tokens, list(findings))


def pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What each token adds to the decoded text, in time linear in the ids.

    Tokens are decoded after a few that come before them, because a decoder may treat the first differently (it drops a
    leading space, say); a character that is not whole yet is left to the token that ends it.
    """

    def decode(part: Sequence[int]) -> str:
        return str(tokenizer.decode(list(part), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    begin = done = 0  # ids[:done] are shown; ids[begin:done] are what is decoded again before new ones
    for end in range(1, len(ids) + 1):
        before, after = decode(ids[begin:done]), decode(ids[begin:end])
        whole = len(after) > len(before) and not after.endswith(INCOMPLETE)
        if whole or end - done >= WINDOW or end == len(ids):
            yield after[len(before) :]
            begin, done = done, end
        else:
            yield ""
