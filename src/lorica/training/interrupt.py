"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint; a second one ends it at once."""

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The run in folder `run` was stopped by `signal`. `step` is that of the full checkpoint written on the way out;
    None if it was stopped outside training, or at once by a second signal, and stands at its last checkpoint."""

    def __init__(self, run: Path, step: int | None, number: int, command: str = "train") -> None:
        told = "what the run had written is kept" if step is None else f"a checkpoint of step {step} is written"
        super().__init__(f"interrupted; {told}. Continue with: lorica {command} --resume {shlex.quote(str(run))}")
        self.run, self.step, self.signal = run, step, number


class Terminated(KeyboardInterrupt):
    """SIGTERM outside the training steps, where it stops the work at once, as Ctrl-C does."""

    def __init__(self) -> None:
        super().__init__("terminated")
        self.signal = signal.SIGTERM


@contextmanager
def termination_raised() -> Iterator[None]:
    """While inside, SIGTERM raises `Terminated`, so that what is open is closed. Not outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """Set by the first signal; `number` is 0 until then."""

    number = 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """While inside, SIGINT and SIGTERM only set the request; one that nobody answered inside is raised again on the way
    out. Outside the main thread signals cannot be caught, and are not."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if request.number:
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.number:
        signal.raise_signal(request.number)
