"""From the user's data to a store of examples, with everything that was noticed on the way.

Memory does not grow with the data, and no row is lost on the way without a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorica.data.branches import branches
from lorica.data.cache import RowCache, TokenisedRow
from lorica.data.encoding import header
from lorica.data.faults import SKIPPED
from lorica.data.findings import Finding, Findings
from lorica.data.formats import Record
from lorica.data.gates import check_gates, judge, refuse
from lorica.data.gates.gate import UNREADABLE
from lorica.data.gates.together import look_at_all
from lorica.data.gates.tokens import TokenGates
from lorica.data.lengths import TOO_LONG, LengthPolicy
from lorica.data.messages import Conversation
from lorica.data.row_tokeniser import UNUSABLE, is_refused
from lorica.data.store import ExampleWriter, StoredExamples
from lorica.data.stream import CHUNK, TokenisedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorica.config.data_section import DataConfig

NOTHING = "nothing to train"
WITHOUT_LOSS = "no loss for this format"
JUDGED = ("preference", "kto")
TRUNCATION_LIMIT = 0.01
UNUSABLE_DATA = (UNREADABLE, UNUSABLE, NOTHING, TOO_LONG)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Examples:
    """What the data became: the examples, how many rows each source has, what they were read as, and what was noticed.

    `lengths` says what each policy for too long examples would cost, `conversational` whether any row is a
    conversation, which a chat template renders.
    """

    examples: StoredExamples
    counts: list[int]
    format: str
    findings: list[Finding]
    lengths: LengthPolicy
    conversational: bool

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(self.counts)


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
    refuse_judgements(read.findings, read.format)
    return read


def refuse_judgements(findings: Sequence[Finding], format: str) -> None:
    """Raises ValueError where rows judge answers: the losses that they are for do not exist yet."""
    if any(finding.name == WITHOUT_LOSS for finding in findings):
        raise ValueError(
            f"the rows were read as {format}, and there is no loss for that yet. `lorica data preview` shows them; to "
            "train on the good answers, give those as `messages`, or as `prompt` and `completion`."
        )


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
    if set(rows.formats) & set(JUDGED):
        told = f"Rows were read as {rows.format}; they are checked and shown, and a training refuses them."
        findings.add_rows(WITHOUT_LOSS, [], 0, told)
    examples = reading.finish()
    found = judge(findings.all(), reading.rows, config.gates)
    return Examples(examples, rows.counts, rows.format, found, lengths, reading.conversational)


class _Reading:
    """Rows on their way into the store."""

    def __init__(self, lengths: LengthPolicy, gates: TokenGates, findings: Findings, on_error: str) -> None:
        self._lengths, self._gates, self._findings = lengths, gates, findings
        self._refused = SKIPPED if on_error == "skip" else UNUSABLE
        self._writer = ExampleWriter()
        self.rows = self.seen = 0
        self.conversational = False

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
        self.conversational |= any(isinstance(branch, Conversation) for branch in branches(record).values())
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
