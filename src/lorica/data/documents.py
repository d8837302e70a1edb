from __future__ import annotations
from lorica.data.formats import Completion, Text
from lorica.data.messages import Conversation
from lorica.data.tokenise import Document, Span
from lorica.data.turns import served_turns

def documents(record, tokenizer, template, findings):
    if isinstance(record, Conversation):
        for turns in served_turns(template, record, findings):
            yield Document(record.source, turns[-1].text, [Span(len(t.prompt), len(t.text), t.weight) for t in turns])
    else:
        yield _plain_document(record, tokenizer, findings)

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
