"""From text with marked spans to token ids with loss weights.

A document is tokenised once, as a whole, or, where it begins like the one before it, from the last added token on that
both have. For each span the law is then checked: the tokens before it must be those the server gets when it tokenises
the prompt alone. Added tokens are hard boundaries for every tokenizer, so only the piece from the last of them to the
span is tokenised again, and equal pieces once. Where a token straddles the boundary, the span becomes an example of its
own, of the prompt's own tokens and then the generated ones.

The tokenizer takes up to a quarter longer where it has to say which characters its tokens cover, and most often that
need not be known: turns end with added tokens (`positions.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING
from unicodedata import normalize

from lorica.data.examples import Example
from lorica.data.findings import Findings
from lorica.data.positions import Anchored, Located, Tokens
from lorica.data.turns import common

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

CHUNK = 64  # documents a call of the tokenizer: enough to amortise it, few enough to be collected young
TAIL, REMEMBERED = 200, 4096  # characters and number of prompt ends whose own tokens are kept: templates repeat a few
WORTH = 200  # characters: a shorter beginning is tokenised again in less time than it is found
ANCHORS = ("", "\n", "a", ".", "0")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a document, to be generated after everything before them."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Shade:
    """Characters `start` to `end` of a document whose loss weight is `weight`, generated or not."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Document:
    """Text with its generated spans, in order.

    `shades` overrule the weights of spans, later ones earlier ones; a token belongs to the shade of its first
    character. `prefix` says whether the tokenizer's own first tokens (BOS) go before the text, where it does not begin
    with them; `ending` are ids that the last span generates after its text; `generative` is False for plain text, which
    has no completion.
    """

    source: str
    text: str
    spans: list[Span]
    prefix: bool = False
    ending: tuple[int, ...] = ()
    generative: bool = True
    shades: list[Shade] = field(default_factory=list)


@dataclass(slots=True)
class _Work:
    """A document with its tokens; for each span the end of its prompt (`_tail`) and its first token."""

    document: Document
    tokens: Tokens
    tails: list[tuple[int, str]] = field(default_factory=list)
    firsts: list[int | None] = field(default_factory=list)


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
        self._added = {id: token for token, id in tokenizer.get_added_vocab().items()}
        added = tokenizer.added_tokens_decoder.values()
        normalised = tokenizer.backend_tokenizer.normalizer is not None
        self._elusive = [  # added tokens that may be written and yet not be read
            token.content for token in added if token.single_word or (token.normalized and normalised)
        ]
        swallowing = [
            r"\s*" * token.lstrip + f"({re.escape(token.content)})" + r"\s*" * token.rstrip
            for token in added
            if token.lstrip or token.rstrip
        ]
        self._swallowed = re.compile("|".join(swallowing) or r"(?!)")
        self._alone: dict[str, list[int]] = {}
        self._met: set[str] = set()  # added tokens that texts had
        self._longest = max(map(len, self._added.values()), default=0)
        plain, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        self._prefix: list[int] = whole[:at]

    def examples(self, documents: Iterable[Document | Example], findings: Findings) -> Iterator[Example]:
        """One example for each document, in order, and one more for each span that a token straddles.

        What is an example already passes through.
        """
        documents = iter(documents)
        while chunk := list(islice(documents, CHUNK)):
            work = self._work([document for document in chunk if isinstance(document, Document)])
            self._find_prompts(work)
            worked = iter(work)
            for item in chunk:
                if isinstance(item, Document):
                    yield from self._example(next(worked), findings)
                else:
                    yield item

    def _work(self, documents: list[Document]) -> list[_Work]:
        """The documents with their tokens."""
        plain = [document for document in documents if not document.shades]
        anchored = self._anchored([document.text for document in plain])
        tokens: list[Tokens | None] = [
            None if document.shades else _telling(document, next(anchored)) for document in documents
        ]
        rest = [document.text for document, known in zip(documents, tokens, strict=True) if known is None]
        located = iter(self._located(rest))
        return [_Work(document, known or next(located)) for document, known in zip(documents, tokens, strict=True)]

    def _anchored(self, texts: list[str]) -> Iterator[Anchored | None]:
        """The tokens of each text; None where it is not certain which of them are the added ones that it names.

        Of a text that begins like the one before it (a template that rewrites history makes one of each turn) only what
        follows the last added token that both have is tokenised.
        """
        cuts = [0, *map(self._cut, texts, texts[1:])]
        rests = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
        tokens: Anchored | None = None
        for text, cut, rest, ids in zip(texts, cuts, rests, self._ids(rests), strict=True):
            named = self._named(rest, ids)
            if cut:
                named = tokens.with_rest(cut, named) if tokens is not None and named is not None else None
                named = named or self._named(text, self._ids([text])[0])
            tokens = named
            yield tokens

    def _named(self, text: str, ids: list[int]) -> Anchored | None:
        if any(name in text for name in self._elusive):
            return None
        tokens = Anchored.of(text, ids, self._added)
        if tokens is not None:
            self._met.update(self._added[ids[at]] for at in tokens.added)
        return tokens

    def _cut(self, before: str, text: str) -> int:
        """Where the last added token begins that two texts begin with, and that no longer name of one reaches over; 0
        where that saves little."""
        end = common(before, text) - self._longest
        return max([0, *(text.rfind(name, WORTH, end) for name in self._met if end > WORTH)])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend().encode_batch_fast(texts, add_special_tokens=False)]

    def _located(self, texts: list[str]) -> list[Located]:
        encodings = self._backend().encode_batch(texts, add_special_tokens=False)
        return [
            Located(encoding.ids, encoding, self._added, text) for encoding, text in zip(encodings, texts, strict=True)
        ]

    def _backend(self) -> Tokenizer:
        """The tokenizer without the lists of everything that transformers makes of what it says."""
        backend = self._tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        return backend

    def _find_prompts(self, work: list[_Work]) -> None:
        """Notes for each span its first token, or None where the tokens before it are not those of the prompt alone."""
        for item in work:
            item.tails = [self._tail(item, span) for span in item.document.spans]
        unknown = list({text for item in work for _, text in item.tails} - self._alone.keys())
        alone = self._alone | dict(zip(unknown, self._ids(unknown), strict=True))
        for item in work:
            for at, text in item.tails:
                end = at + len(alone[text])
                item.firsts.append(end if item.tokens.ids[at:end] == alone[text] else None)
        short = {text: alone[text] for text in unknown if len(text) <= TAIL}
        self._alone = (self._alone if len(self._alone) < REMEMBERED else {}) | short

    def _tail(self, item: _Work, span: Span) -> tuple[int, str]:
        """The last added token before the span: its index and the text from it up to the span (0 and all if none)."""
        at, start = item.tokens.added_before(span.start)
        return at, item.document.text[start if at else 0 : span.start]

    def _example(self, item: _Work, findings: Findings) -> Iterator[Example]:
        document, tokens = item.document, item.tokens
        written = tokens.ids[: len(self._prefix)] == self._prefix
        prefix = self._prefix if document.prefix and not written else []
        ids = [*prefix, *tokens.ids, *document.ending]
        weights = [0.0] * len(ids)
        completion_start: int | None = None
        straddled: list[Span] = []
        for span, first in zip(document.spans, item.firsts, strict=True):
            if first is None:
                straddled.append(span)
                continue
            last = tokens.starting_from(span.end)
            self._check_stop(document, span, tokens.ids, last)
            completion_start = len(prefix) + first
            end = len(prefix) + last + (len(document.ending) if span is document.spans[-1] else 0)
            weights[completion_start:end] = [span.weight] * (end - completion_start)
        for shade in document.shades:
            _shade(weights, tokens, shade, len(prefix))
        if completion_start is not None or document.shades:
            yield _finish(document, ids, weights, completion_start)
        for span in straddled:
            findings.add(
                "a token straddles prompt and completion",
                document.source,
                "Tokenised together, the end of the prompt and the start of the completion would share a token that a "
                "server never produces; the prompt is tokenised alone, as the server does.",
            )
            yield self._continuation(document, span, prefix)

    def _check_stop(self, document: Document, span: Span, ids: list[int], end: int) -> None:
        """Refuses a span whose last token, the one before `end`, is no stop token."""
        if not document.generative or document.ending:
            return
        stop = self._added.get(ids[end - 1])
        if stop is None or not document.text.endswith(stop, 0, span.end):
            raise ValueError(
                f"{document.source}: the stop token at the end of {self._decode(ids[:end][-20:])!r} is not one token "
                "of this tokenizer but several pieces of text, so no server would stop there. Add it to the "
                "tokenizer's special tokens, or give a template that ends turns with a token it has."
            )

    def _continuation(self, document: Document, span: Span, prefix: list[int]) -> Example:
        """The span as an example of its own: the tokens of the prompt alone, then those of the generated text."""
        prompt, completion = document.text[: span.start], document.text[span.start : span.end]
        prompt_ids, whole_ids = self._ids([prompt, prompt + completion])
        texts = self._decode(whole_ids), self._decode(prompt_ids, completion)
        for anchor in ANCHORS:
            anchor_ids = self._ids([anchor])[0] if anchor else []
            anchored, tokens = len(anchor_ids), self._located([anchor + completion])[0]
            generated = tokens.ids[anchored:]
            if tokens.ids[:anchored] == anchor_ids and self._decode(prompt_ids + generated) in texts:
                self._check_stop(document, span, generated, len(generated))
                start = len(prefix) + len(prompt_ids)
                weights = [0.0] * start + [span.weight] * (len(generated) + len(document.ending))
                moved = len(anchor) - span.start
                for shade in document.shades:
                    within = Shade(max(shade.start + moved, len(anchor)), shade.end + moved, shade.weight)
                    _shade(weights, tokens, within, start - anchored)
                return _finish(document, [*prefix, *prompt_ids, *generated, *document.ending], weights, start)
        raise ValueError(
            f"{document.source}: the prompt's end {prompt[-20:]!r} and the completion's start {completion[:20]!r} "
            "cannot be tokenised apart. Move the white space at the boundary from one to the other."
        )

    def _decode(self, ids: list[int], then: str = "") -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # Some tokenizers compose characters, which a boundary may keep apart; some control tokens swallow white space.
        return self._swallowed.sub(lambda found: found[found.lastindex or 0], normalize("NFC", f"{text}{then}"))


def _telling(document: Document, tokens: Anchored | None) -> Anchored | None:
    """The tokens, if they tell where each span ends."""
    if tokens is None or not {*tokens.ends, len(document.text)}.issuperset(span.end for span in document.spans):
        return None
    return tokens


def _shade(weights: list[float], tokens: Tokens, shade: Shade, moved: int) -> None:
    """Gives the tokens that start in `shade` its weight; token t is weights[t + moved]."""
    first, last = tokens.starting_from(shade.start) + moved, tokens.starting_from(shade.end) + moved
    weights[first:last] = [shade.weight] * (last - first)


def _finish(document: Document, ids: list[int], weights: list[float], completion_start: int | None) -> Example:
    """Drops what follows the last supervised token, which nothing is learned from, and supervises no first token."""
    if weights:
        weights[0] = 0.0
    if not weights or not weights[-1]:
        length = next((i + 1 for i in range(len(weights) - 1, -1, -1) if weights[i]), 0)
        ids, weights = ids[:length], weights[:length]
    return Example(document.source, ids, weights, completion_start if document.generative else None)
