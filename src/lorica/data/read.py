"""From the user's data to examples: rows -> records -> documents -> tokens, with everything noticed on the way.

Rows stream through in chunks and end in a file, so that memory does not grow with the data, and no row is lost on the
way without a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorica.data.cache import RowCache, TokenisedRow
from lorica.data.encoding import header
from lorica.data.faults import SKIPPED
from lorica.data.findings import Finding, Findings
from lorica.data.formats import Record, read_records
from lorica.data.gates import check_gates, judge, refuse
from lorica.data.gates.gate import UNREADABLE
from lorica.data.gates.together import look_at_all
from lorica.data.gates.tokens import TokenGates
from lorica.data.lengths import TOO_LONG, LengthPolicy
from lorica.data.messages import Conversation
from lorica.data.row_tokeniser import UNUSABLE, RowTokeniser, is_refused
from lorica.data.rows import read_rows
from lorica.data.store import ExampleWriter, StoredExamples
from lorica.data.template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorica.config.schema import DataConfig

NOTHING = "nothing to train"
CHUNK = 256  # rows rendered, tokenised and looked up together
CHUNK_CHARACTERS = 4_000_000
TRUNCATION_LIMIT = 0.01
UNUSABLE_DATA = (UNREADABLE, UNUSABLE, NOTHING, TOO_LONG)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Examples:
    """What a source became: the examples, how many rows were read, as which format, and what was noticed.

    `lengths` says what each policy for too long examples would cost.
    """

    examples: StoredExamples
    rows: int
    format: str
    findings: list[Finding]
    lengths: LengthPolicy


def read_examples(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stop_ids: Sequence[int] = (),
    *,
    vocabulary: int | None = None,
    cache: RowCache | None = None,
    progress: Progress | None = None,
) -> Examples:
    """Reads `config.path` into examples whose supervised tokens are exactly those a server would have to generate.

    Args:
        config: the section of the configuration: which rows, their format, the length policy, the chat template, gates.
        tokenizer: the base's own; a fast one.
        max_length: tokens, in effect (`config.max_length`, or what "auto" came to).
        stop_ids: the ids on which the server stops (`eos_token_id` of the model's generation config), beside the
            tokenizer's eos_token.
        vocabulary: how many tokens the model has embeddings for, if that is known.
        cache: tokenised rows of earlier runs.
        progress: told, now and then, how many rows were read.

    Raises:
        ValueError: rows cannot be read, rendered or tokenised, are too long, or none trains anything. Whatever else
            would spoil a training is among the findings, as errors; a run refuses those too.
    """
    read = survey(config, tokenizer, max_length, stop_ids, vocabulary=vocabulary, cache=cache, progress=progress)
    refuse([finding for finding in read.findings if finding.name in UNUSABLE_DATA])
    return read


def survey(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stop_ids: Sequence[int] = (),
    *,
    vocabulary: int | None = None,
    cache: RowCache | None = None,
    progress: Progress | None = None,
) -> Examples:
    """As `read_examples`, but what would spoil the training is among the findings, as errors.

    Raises:
        ValueError: the tokenizer is a slow one, or `config.gates` names none.
    """
    check_gates(config.gates)
    findings = Findings()
    rows = TokenisedRows(config, tokenizer, stop_ids, cache, findings)
    lengths = LengthPolicy(max_length, config.too_long, tokenizer.bos_token_id)
    reading = _Reading(lengths, TokenGates(tokenizer, stop_ids, vocabulary, findings), findings, config.on_error)
    try:
        for record, row in rows:
            reading.take(record, row)
            if progress is not None and reading.rows % CHUNK == 0:
                progress(reading.rows)
    except ValueError as error:  # what was read until here is still told
        findings.add_rows(UNREADABLE, [], 0, str(error))
    examples = reading.finish()
    found = judge(findings.all(), reading.rows, config.gates)
    return Examples(examples, reading.rows, rows.format, found, lengths)


class TokenisedRows:
    """The rows of `config.path` with what they became, streaming; can be iterated once. `format` is known after that.

    Raises (while iterating):
        ValueError: rows cannot be read, or there is no chat template for conversations.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        cache: RowCache | None,
        findings: Findings,
    ) -> None:
        self.format: str = config.format
        self._config, self._findings = config, findings
        self._tokeniser = RowTokeniser(
            tokenizer, lambda: _template(tokenizer, config.chat_template, stop_ids, findings), cache
        )

    def __iter__(self) -> Iterator[tuple[Record, TokenisedRow]]:
        records, self.format = read_records(read_rows(self._config.path), self._config.format, self._findings)
        for chunk in _chunks(records):
            yield from self._tokeniser.rows(chunk)


class _Reading:
    """Rows on their way into the store."""

    def __init__(self, lengths: LengthPolicy, gates: TokenGates, findings: Findings, on_error: str) -> None:
        self._lengths, self._gates, self._findings = lengths, gates, findings
        self._refused = SKIPPED if on_error == "skip" else UNUSABLE
        self._writer = ExampleWriter()
        self.rows = self.seen = 0

    def take(self, record: Record, row: TokenisedRow) -> None:
        for name, message in row.findings:
            self._findings.add(self._refused if name == UNUSABLE else name, record.source, message)
        trained = self._take_examples(row.examples, record.source)
        if not trained and not is_refused(row):
            self._findings.add(
                "trains nothing",
                record.source,
                "No token of it would be trained (no assistant turn, or weight 0, or cut off); dropped.",
            )
        self.rows += 1

    def _take_examples(self, examples: list[bytes], source: str) -> bool:
        """Whether anything of the row is trained."""
        trained = False
        for whole in examples:
            self.seen += header(whole).supervised > 0
            for encoded in self._lengths.fit(whole, source, self._findings):
                if header(encoded).supervised:
                    self._gates.look_at(encoded, source)
                    self._writer.append(self.rows, source, encoded)
                    trained = True
        return trained

    def finish(self) -> StoredExamples:
        examples = self._writer.finish()
        if not examples and self.rows:
            self._note_nothing()
        self._note_lengths()
        self._gates.conclude()
        look_at_all(examples, self._findings)
        return examples

    def _note_nothing(self) -> None:
        self._findings.add_rows(
            NOTHING,
            self._findings.rows("trains nothing"),
            self.rows,
            f"None of the {self.rows:,} rows trains anything: there is no assistant turn or completion with a weight "
            "above 0 that fits. Check the roles, the weights and data.max_length.",
        )

    def _note_lengths(self) -> None:
        costs, lengths = self._lengths.costs, self._lengths
        if not costs.examples:
            return
        long = self._findings.rows(lengths.finding)
        self._findings.add_rows(lengths.finding, long, costs.examples, lengths.message(self.seen))
        lost = costs.of(lengths.too_long)
        if lost > TRUNCATION_LIMIT * lengths.supervised:
            self._findings.add_rows(
                "truncation",
                long,
                costs.examples,
                f"{lost:,} of {lengths.supervised:,} supervised tokens ({lost / lengths.supervised:.1%}) are lost to "
                f"max_length = {lengths.max_length:,}. Raise data.max_length, choose data.too_long=split, or consent.",
            )


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Some records at a time, from different places, and not much text together."""
    chunk: dict[str, Record] = {}
    characters = 0
    for record in records:
        if len(chunk) == CHUNK or characters > CHUNK_CHARACTERS or record.source in chunk:
            yield list(chunk.values())
            chunk, characters = {}, 0
        chunk[record.source] = record
        characters += _characters(record)
    if chunk:
        yield list(chunk.values())


def _characters(record: Record) -> int:
    if isinstance(record, Conversation):
        return sum(len(message["content"]) for message in record.messages)
    return sum(len(getattr(record, name, "")) for name in ("prompt", "completion", "text", "input_ids"))


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
