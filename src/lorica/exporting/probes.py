"""What an export is run on to be proven: held-out rows of the run it comes from, or passages of a general text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lorica import config as configuration
from lorica.config.schema import EvaluateConfig
from lorica.data.examples import Example
from lorica.evaluation.forgetting import read_general_text
from lorica.lora.weights import vocabulary_of
from lorica.models import Base
from lorica.run.receipt import hash_examples
from lorica.run.rows import Server, read_rows
from lorica.run.source import Source
from lorica.run.watch import Watcher

LOGITS_BUDGET = 512 << 20  # bytes of fp32 logits that are kept of the base and of base and adapter
MOST_TOKENS, LONGEST = 4096, 256
MOST_ROWS = 64


@dataclass(frozen=True)
class Probe:
    """`positions` are those whose next token is predicted."""

    ids: list[int]
    positions: list[int]


@dataclass(frozen=True)
class Probes:
    """`rows` are the held-out rows for the task metric, empty without a run; `evaluate` that run's settings."""

    probes: list[Probe]
    rows: Sequence[Example] = ()
    evaluate: EvaluateConfig | None = None
    notes: list[str] = field(default_factory=list)


def find_probes(source: Source, base: Base, watcher: Watcher) -> Probes:
    """The held-out rows if the run still has them, else passages of the general text that Lorica ships."""
    vocabulary = vocabulary_of(base.model.get_input_embeddings())
    notes: list[str] = []
    if source.run is not None:
        try:
            rows, evaluate = _held_out(source, base, vocabulary, watcher)
            found = Probes(_of_rows(rows, _room(base)), rows, evaluate)
            if found.probes:
                return found
            notes.append("the run held no rows out; run on a general text instead")
        except (ValueError, OSError) as error:
            notes.append(f"the run's rows cannot be read again, so a general text stands for them: {error}")
    return Probes(text_probes(base), notes=notes)


def text_probes(base: Base) -> list[Probe]:
    """Passages of the general text that Lorica ships."""
    return _of_text(base.tokenizer, _room(base), base.longest or LONGEST)


def _room(base: Base) -> int:
    """Tokens whose logits are kept."""
    vocabulary = vocabulary_of(base.model.get_input_embeddings())
    return max(64, min(MOST_TOKENS, LOGITS_BUDGET // (8 * vocabulary)))


def _held_out(
    source: Source, base: Base, vocabulary: int, watcher: Watcher
) -> tuple[Sequence[Example], EvaluateConfig]:
    assert source.run is not None and source.receipt is not None
    config = configuration.load(source.run.config).config
    rows = read_rows(config, Server(base.tokenizer, sorted(base.stop_ids), vocabulary), watcher)
    if hash_examples(rows.held_out) != source.receipt["data"]["held_out"]:
        raise ValueError("the held-out rows are not those that the run was measured on; the data changed")
    return rows.held_out, config.evaluate


def _of_rows(rows: Sequence[Example], room: int) -> list[Probe]:
    """The first rows, up to `room` predicted tokens."""
    found: list[Probe] = []
    for row in list(rows[:MOST_ROWS]):
        positions = [place - 1 for place, weight in enumerate(row.weights) if weight != 0.0][:room]
        if positions:
            found.append(Probe(row.input_ids[: positions[-1] + 1], positions))
            room -= len(positions)
        if room <= 0:
            break
    return found


def _of_text(tokenizer: Any, room: int, longest: int) -> list[Probe]:
    text = "\n\n".join(read_general_text("auto").passages)[: 8 * room]
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"][:room]
    length = min(LONGEST, longest)
    passages = [ids[start : start + length] for start in range(0, len(ids), length)]
    return [Probe(passage, list(range(len(passage)))) for passage in passages]
