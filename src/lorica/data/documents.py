"""From a record to the documents that are tokenised: rendered conversations, or prompt and completion as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorica.data.conversations import Served, served
from lorica.data.findings import Findings
from lorica.data.formats import Completion, Record, Text
from lorica.data.messages import Conversation
from lorica.data.template import ChatTemplate
from lorica.data.tokenise import Document, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def documents(
    record: Record, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None, findings: Findings
) -> Iterator[Document]:
    """The documents of one record. Conversations need a `template`.

    Raises:
        ValueError: naming the row, where it cannot be rendered or the tokenizer cannot end it.
    """
    if isinstance(record, Conversation):
        assert template is not None
        conversation = template.prepared(record)
        for text in served(template, conversation, findings):
            yield _chat_document(conversation, text)
    else:
        assert isinstance(record, Completion | Text)
        yield _plain_document(record, tokenizer, findings)


def _chat_document(conversation: Conversation, text: Served) -> Document:
    spans = [Span(turn.start, turn.end, conversation.weights[turn.index]) for turn in text.turns]
    return Document(conversation.source, text.text, spans)


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
    return Document(
        record.source,
        text,
        [Span(len(prompt), len(text), record.weight)],
        prefix=True,
        ending=() if eos is None else (eos,),
        generative=isinstance(record, Completion),
    )
