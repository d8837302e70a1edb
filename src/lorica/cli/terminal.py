"""What the commands share: quiet libraries, JSON on stdout, and a watcher that draws progress on stderr."""

import json
import sys
import time
from contextlib import redirect_stdout
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lorica.run.watch import Watcher


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def quiet_libraries() -> None:
    """No progress bars or warnings of transformers between our own lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


class TerminalWatcher(Watcher):
    """Notices as lines; stages and training as bars, or as a line now and then where the output is no terminal. Inside
    its context stdout is stderr, for what a user's metric or a tracker prints: stdout is the result's."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.aside = redirect_stdout(sys.stderr)
        self.task: TaskID | None = None
        self.task_name = ""
        self.line_at = time.monotonic()

    def __enter__(self) -> "TerminalWatcher":
        self.aside.__enter__()
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.aside.__exit__(None, None, None)

    def notice(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def stage(self, name: str, done: int, total: int) -> None:
        self._show(name, done, total or None, "")
        self._tell_if_due(f"{name}: {done:,}{f' of {total:,}' if total else ''}")

    def record(self, record: dict[str, float | int], total_steps: int) -> None:
        if "held_out_loss" in record:
            self.notice(f"step {record['step']}: held-out loss {record['held_out_loss']:.4f}")
            return
        told = f"loss {record['loss']:.4f}  {record['tokens_per_second']:,.0f} tokens/s"
        self._show("training", int(record["step"]), total_steps, told)
        last = record["step"] == total_steps
        self._tell_if_due(f"step {record['step']} of {total_steps}: {told}", last)

    def _tell_if_due(self, text: str, due: bool = False) -> None:
        """A line now and then where no bar can be drawn."""
        due = due or time.monotonic() - self.line_at >= self.SECONDS_BETWEEN_LINES
        if not self.console.is_terminal and due:
            self.notice(text)
            self.line_at = time.monotonic()

    def _show(self, name: str, done: int, total: int | None, told: str) -> None:
        if self.task is None or name != self.task_name:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task, self.task_name = self.progress.add_task(name, total=total, told=told), name
        self.progress.update(self.task, completed=done, total=total, told=told)
