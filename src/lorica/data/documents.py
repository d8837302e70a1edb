"""From a record to the documents that are tokenised: rendered conversations, or prompt and completion as they are.

Rows of tokens are examples already, and pass by the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorica.data.branches import Branch
from lorica.data.conversations import Served, served
from lorica.data.examples import Example
from lorica.data.findings import Findings
from lorica.data.formats import Completion, Text, Tokens
from lorica.data.messages import Conversation
from lorica.data.shades import shades
from lorica.data.template import ChatTemplate
from lorica.data.tokenise import Document, Shade, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def documents(
    record: Branch, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None, findings: Findings
) -> Iterator[Document | Example]:
    """The documents of one record, or of one answer of a record that judges several. Conversations need a `template`.

    Raises:
        ValueError: naming the row, where it cannot be rendered or the tokenizer cannot end it.
    """
    if isinstance(record, Conversation):
        assert template is not None
        conversation = template.prepared(record)
        first = 0
        for text in served(template, conversation, findings):
            yield _chat_document(template, conversation, text, first)
            first = text.turns[-1].index + 1 if text.turns else first
    elif isinstance(record, Tokens):
        yield _example(record)
    else:
        yield _plain_document(record, tokenizer, findings)


def _chat_document(template: ChatTemplate, conversation: Conversation, text: Served, first: int) -> Document:
    """`first` is the first message that no earlier document of the conversation has trained."""
    spans = [Span(turn.start, turn.end, conversation.weights[turn.index]) for turn in text.turns]
    return Document(conversation.source, text.text, spans, shades=shades(template, conversation, text, first))


def _plain_document(record: Completion | Text, tokenizer: PreTrainedTokenizerBase, findings: Findings) -> Document:
    """A prompt and completion joined as they stand, or a text; ended by eos_token, once."""
    prompt, rest = ("", record.text) if isinstance(record, Text) else (record.prompt, record.completion)
    if not rest:
        findings.add("empty text", record.source, "Only the stop token is trained.")
    eos = tokenizer.eos_token_id
    if eos is None and isinstance(record, Completion):
        raise ValueError(
            f"{record.source}: the tokenizer has no eos_token, so the model would never learn to stop. Set one."
        )
    rest = rest.removesuffix(str(tokenizer.eos_token)) if eos is not None else rest
    text = prompt + rest
    prompt_weight = record.prompt_weight if isinstance(record, Completion) else 0.0
    return Document(
        record.source,
        text,
        [Span(len(prompt), len(text), record.weight)],
        prefix=True,
        ending=() if eos is None else (eos,),
        generative=isinstance(record, Completion),
        shades=[Shade(0, len(prompt), prompt_weight)] if prompt and prompt_weight else [],
    )


def _example(record: Tokens) -> Example:
    """The tokens up to the last trained one; the completion begins where the last run of trained tokens does."""
    weights = record.weights
    end = next((at + 1 for at in range(len(weights) - 1, -1, -1) if weights[at]), 0)
    start = next((at + 1 for at in range(end - 1, -1, -1) if not weights[at]), 0)
    return Example(record.source, record.input_ids[:end], weights[:end], start if start > 1 else None)
