"""What each step computes on, made ready while the step before is computed.

A step's rows and microbatches are a function of its number, so whether they were made ahead changes nothing, and a
resumed run starts wherever it likes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from lorica.data.batches import Batch, microbatches
from lorica.data.examples import Example
from lorica.data.order import step_rows


@dataclass(frozen=True)
class Step:
    """One optimiser step: `rows` index the training examples, and `batches` are those examples packed."""

    number: int
    rows: list[int]
    examples: list[Example]
    batches: list[Batch]

    @property
    def weight(self) -> float:
        """The sum of the weights of all supervised tokens, which the step's loss is divided by."""
        return sum(weight for example in self.examples for weight in example.weights)

    @property
    def tokens(self) -> int:
        return sum(batch.input_ids.numel() for batch in self.batches)


T = TypeVar("T")


def step_maker(examples: Sequence[Example], batch_size: int, capacity: int, seed: int) -> Callable[[int], Step]:
    """Makes the steps of a run: its rows in the order of the seed."""

    def make(number: int) -> Step:
        return make_step(examples, step_rows(len(examples), batch_size, number, seed), capacity, number)

    return make


def make_step(examples: Sequence[Example], rows: list[int], capacity: int, number: int) -> Step:
    """Step `number` over `rows` of `examples`, in microbatches of at most `capacity` tokens."""
    chosen = [examples[row] for row in rows]
    return Step(number, rows, chosen, microbatches(chosen, capacity))


class Feed(Generic[T]):
    """What each step needs, by the step's number. Inside its context the next one is made in a thread of its own; an
    error made there is raised by the step that it belongs to."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self.make = make
        self.thread: ThreadPoolExecutor | None = None
        self.ahead: dict[int, Future[T]] = {}

    def __enter__(self) -> Self:
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.thread is not None
        self.thread.shutdown(cancel_futures=True)
        self.thread, self.ahead = None, {}

    def step(self, number: int) -> T:
        """What step `number` needs; begins to make that of the one after it."""
        made = self.ahead.pop(number, None)
        step = self.make(number) if made is None else made.result()
        if self.thread is not None:
            self.ahead = {number + 1: self.thread.submit(self.make, number + 1)}
        return step
