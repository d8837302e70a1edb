"""From the user's files to examples: rows -> records -> documents -> tokens, with everything noticed on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lorica.data.examples import Example, Examples
from lorica.data.findings import Findings
from lorica.data.formats import Completion, Record, Text, read_records
from lorica.data.lengths import fit_lengths
from lorica.data.messages import Conversation
from lorica.data.rows import read_rows
from lorica.data.template import ChatTemplate
from lorica.data.tokenise import Document, Span, Tokeniser
from lorica.data.turns import Turn, served_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorica.config.schema import DataConfig


def read_examples(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, max_length: int, stop_ids: Sequence[int] = ()
) -> Examples:
    """Reads `config.path` into examples whose supervised tokens are exactly those a server would have to generate.

    Args:
        config: which files, their format, the length policy and the chat template.
        tokenizer: the base's own; a fast one.
        max_length: tokens, in effect (`config.max_length`, or what "auto" came to).
        stop_ids: the ids on which the server stops (`eos_token_id` of the model's generation config), beside the
            tokenizer's eos_token.

    Raises:
        ValueError: one paragraph that names the file and line, for anything that would spoil the training.
    """
    findings = Findings()
    records, format = read_records(read_rows(config.paths), config.format, findings)
    documents = _documents(records, tokenizer, config.chat_template, stop_ids, findings)
    examples = list(Tokeniser(tokenizer).examples(documents, findings))
    examples = fit_lengths(examples, max_length, config.too_long, findings)
    kept = _training(examples, records, findings)
    _note_duplicates(kept, findings)
    return Examples(kept, len(records), format, findings.all())


def _documents(
    records: list[Record],
    tokenizer: PreTrainedTokenizerBase,
    template_path: str | None,
    stop_ids: Sequence[int],
    findings: Findings,
) -> Iterator[Document]:
    template: ChatTemplate | None = None
    for record in records:
        if isinstance(record, Conversation):
            template = template or _template(tokenizer, template_path, stop_ids, findings)
            for turns in served_turns(template, record, findings):
                yield _chat_document(record.source, turns)
        else:
            yield _plain_document(record, tokenizer, findings)


def _template(
    tokenizer: PreTrainedTokenizerBase, path: str | None, stop_ids: Sequence[int], findings: Findings
) -> ChatTemplate:
    template = ChatTemplate(tokenizer, path, stop_ids)
    if path and tokenizer.chat_template and template.source != tokenizer.chat_template:
        findings.add(
            "chat template is not the tokenizer's own",
            path,
            "Serve with this template too: with the tokenizer's own the model would see prompts it was not trained on.",
        )
    if "strftime_now" in str(template.source or tokenizer.chat_template):
        findings.add(
            "chat template shows the date",
            path or "the tokenizer's chat template",
            "Prompts hold the day on which they are rendered: a run resumed on another day reads other tokens.",
        )
    return template


def _chat_document(source: str, turns: list[Turn]) -> Document:
    return Document(source, turns[-1].text, [Span(len(t.prompt), len(t.text), t.weight) for t in turns])


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


def _training(examples: list[Example], records: list[Record], findings: Findings) -> list[Example]:
    """The examples that train something; the rows that do not are noted, and if that is all of them, refused."""
    kept = [example for example in examples if example.supervised]
    sources = {example.source for example in kept}
    idle = [record.source for record in records if record.source not in sources]
    for source in idle:
        findings.add(
            "trains nothing", source, "No token of it would be trained (no assistant turn, or weight 0); dropped."
        )
    if not kept:
        raise ValueError(
            f"None of the {len(records)} rows trains anything (first: {records[0].source}): there is no assistant turn "
            "or completion with a weight above 0 that fits. Check the roles, the weights and data.max_length."
        )
    return kept


def _note_duplicates(examples: list[Example], findings: Findings) -> None:
    seen: set[bytes] = set()
    for example in examples:
        content = example.fingerprint()
        if content in seen:
            findings.add("duplicate", example.source, "The same tokens and weights as an earlier row; kept.")
        seen.add(content)
