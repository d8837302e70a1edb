"""The rows that a plan is for: how many, how long, and how much of them is trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorica.data.examples import Example
from lorica.training.schedule import total_steps


@dataclass(frozen=True)
class Workload:
    """`lengths` are tokens of some rows that stand for all `rows` (0: not known how many); `supervised` the share of
    tokens that is trained; `longest` the tokens of the longest row."""

    lengths: tuple[int, ...]
    longest: int
    supervised: float
    rows: int
    batch_size: int
    epochs: float
    steps: int | None

    @property
    def step_tokens(self) -> float:
        """Of one optimiser step, on average."""
        return self.batch_size * sum(self.lengths) / len(self.lengths)

    @property
    def total_steps(self) -> int | None:
        if self.steps is None and not self.rows:
            return None
        return total_steps(self.rows, self.batch_size, self.epochs, self.steps)

    def microbatch_tokens(self, capacity: int) -> int:
        """Of the largest microbatch: a longer row is one by itself, and no step is longer than its rows."""
        return max(self.longest, min(capacity, self.batch_size * self.longest))

    def microbatch(self, capacity: int) -> list[Example]:
        """Documents that fill the largest microbatch, of typical lengths."""
        room, documents = self.microbatch_tokens(capacity), []
        typical = sorted(self.lengths)[len(self.lengths) // 2]
        if room == self.longest:
            documents = [self.longest]
        while sum(documents) < room:
            documents.append(min(typical, room - sum(documents)))
        return [self._document(length) for length in documents]

    def _document(self, length: int) -> Example:
        trained = min(length - 1, max(1, round(length * self.supervised)))
        return Example("", [1] * length, [0.0] * (length - trained) + [1.0] * trained)


def even(length: int, rows: int, batch_size: int, epochs: float, steps: int | None) -> Workload:
    """Rows of one length, trained on whole: what is known without any data."""
    return Workload((length,), length, 1.0, rows, batch_size, epochs, steps)


def of_rows(tokens: Sequence[int], supervised: int, batch_size: int, epochs: float, steps: int | None) -> Workload:
    """Of real rows' tokens."""
    share = supervised / max(1, sum(tokens))
    return Workload(tuple(tokens), max(tokens), share, len(tokens), batch_size, epochs, steps)
