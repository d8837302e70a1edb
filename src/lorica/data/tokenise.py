"""From text with marked spans to token ids with loss weights.

A document is tokenised once, as a whole. For each span the law is then checked: the tokens before it must be those the
server gets when it tokenises the prompt alone. Added tokens are hard boundaries for every tokenizer, so only the piece
from the last of them to the span is tokenised again. Where a token straddles the boundary, the span becomes an example
of its own, of the prompt's own tokens and then the generated ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING
from unicodedata import normalize

from lorica.data.examples import Example
from lorica.data.findings import Findings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 512  # documents a call of the tokenizer: enough to amortise the call, little enough to stay in cache
ANCHORS = ("", "\n", "a", ".", "0")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a document, to be generated after everything before them."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Document:
    """Text with its supervised spans, in order.

    `prefix` says whether the tokenizer's own first tokens (BOS) go before it, where the text does not begin with them;
    `ending` are ids that the last span generates after its text; `generative` is False for plain text, which has no
    completion.
    """

    source: str
    text: str
    spans: list[Span]
    prefix: bool = False
    ending: tuple[int, ...] = ()
    generative: bool = True


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokeniser:
    """Turns documents into examples with a fast tokenizer.

    Raises:
        ValueError: the tokenizer is a slow one, which does not say which characters a token covers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not say which characters each token covers. Load the fast version of "
                "the tokenizer (the one with a tokenizer.json)."
            )
        self._tokenizer = tokenizer
        self._added = set(tokenizer.get_added_vocab().values())
        plain, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        self._prefix: list[int] = whole[:at]

    def examples(self, documents: Iterable[Document], findings: Findings) -> Iterator[Example]:
        """One example for each document, in order, and one more for each span that a token straddles."""
        documents = iter(documents)
        while chunk := list(islice(documents, CHUNK)):
            encoded = self._encode([document.text for document in chunk])
            tails = {
                self._tail(document, tokens, span)[1]
                for document, tokens in zip(chunk, encoded, strict=True)
                for span in document.spans
            }
            alone = dict(zip(tails, (tokens.ids for tokens in self._encode(list(tails))), strict=True))
            for document, tokens in zip(chunk, encoded, strict=True):
                yield from self._example(document, tokens, alone, findings)

    def _encode(self, texts: list[str]) -> list[_Tokens]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        return [_Tokens(*pair) for pair in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def _tail(self, document: Document, tokens: _Tokens, span: Span) -> tuple[int, str]:
        """The last added token before the span: its index and the text from it up to the span (0 and all if none)."""
        at = bisect_right(tokens.offsets, span.start, key=itemgetter(1)) - 1
        while at > 0 and tokens.ids[at] not in self._added:
            at -= 1
        return (at, document.text[tokens.offsets[at][0] : span.start]) if at > 0 else (0, document.text[: span.start])

    def _example(
        self, document: Document, tokens: _Tokens, alone: dict[str, list[int]], findings: Findings
    ) -> Iterator[Example]:
        written = tokens.ids[: len(self._prefix)] == self._prefix
        prefix = self._prefix if document.prefix and not written else []
        ids = [*prefix, *tokens.ids, *document.ending]
        weights = [0.0] * len(ids)
        completion_start: int | None = None
        straddled: list[Span] = []
        for span in document.spans:
            at, tail = self._tail(document, tokens, span)
            first = at + len(alone[tail])
            last = bisect_left(tokens.offsets, span.end, key=itemgetter(0))
            if tokens.ids[at:first] != alone[tail]:
                straddled.append(span)
                continue
            self._check_stop(document, tokens.ids[first:last])
            completion_start = len(prefix) + first
            end = len(ids) if span is document.spans[-1] else len(prefix) + last
            weights[completion_start:end] = [span.weight] * (end - completion_start)
        if completion_start is not None:
            yield _finish(document, ids, weights, completion_start)
        for span in straddled:
            findings.add(
                "a token straddles prompt and completion",
                document.source,
                "Tokenised together, the end of the prompt and the start of the completion would share a token that a "
                "server never produces; the prompt is tokenised alone, as the server does.",
            )
            yield self._continuation(document, span, prefix)

    def _check_stop(self, document: Document, generated: list[int]) -> None:
        if document.generative and not document.ending and generated[-1] not in self._added:
            raise ValueError(
                f"{document.source}: the stop token at the end of {self._decode(generated[-20:])!r} is not one token "
                "of this tokenizer but several pieces of text, so no server would stop there. Add it to the "
                "tokenizer's special tokens, or give a template that ends turns with a token it has."
            )

    def _continuation(self, document: Document, span: Span, prefix: list[int]) -> Example:
        """The span as an example of its own: the tokens of the prompt alone, then those of the generated text."""
        prompt, completion = document.text[: span.start], document.text[span.start : span.end]
        prompt_ids = self._encode([prompt])[0].ids
        whole = self._decode(self._encode([prompt + completion])[0].ids)
        for anchor in ANCHORS:
            anchor_ids = self._encode([anchor])[0].ids if anchor else []
            ids = self._encode([anchor + completion])[0].ids
            generated = ids[len(anchor_ids) :]
            if ids[: len(anchor_ids)] == anchor_ids and self._decode(prompt_ids + generated) == whole:
                self._check_stop(document, generated)
                start, generated = len(prefix) + len(prompt_ids), [*generated, *document.ending]
                weights = [0.0] * start + [span.weight] * len(generated)
                return _finish(document, [*prefix, *prompt_ids, *generated], weights, start)
        raise ValueError(
            f"{document.source}: the prompt's end {prompt[-20:]!r} and the completion's start {completion[:20]!r} "
            "cannot be tokenised apart. Move the white space at the boundary from one to the other."
        )

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return normalize("NFC", str(text))  # some tokenizers compose characters, which a boundary may keep apart


def _finish(document: Document, ids: list[int], weights: list[float], completion_start: int | None) -> Example:
    """Drops what follows the last supervised token, which nothing is learned from, and supervises no first token."""
    weights = [0.0, *weights[1:]] if weights else []
    length = next((i + 1 for i in range(len(weights) - 1, -1, -1) if weights[i]), 0)
    return Example(document.source, ids[:length], weights[:length], completion_start if document.generative else None)
