"""The runs of a comparison: each a `lorica train` process of its own, so that its memory and its time are its own. One
that is finished is not run again, and one that was stopped goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.comparing.methods import Planned
from lorica.evaluation.evaluation import Evaluation
from lorica.files import read_json, write_atomically
from lorica.training.interrupt import Terminated, termination_raised
from lorica.training.run_folder import RunFolder

Command = Callable[[list[str]], int]


@dataclass(frozen=True)
class Finished:
    """A finished run: its report, and both sides row by row."""

    plan: Planned
    folder: Path
    report: dict[str, Any]
    before: Evaluation
    after: Evaluation

    @property
    def loss(self) -> float:
        """Held-out loss after training, nats a token; infinite where it was no number."""
        loss = self.report["after"]["loss"]
        return float("inf") if loss is None else float(loss)

    @property
    def bytes_stored(self) -> int:
        """What the run adds to the disk to be served: the adapter's files, or the model's."""
        run = RunFolder(self.folder)
        folder = run.adapter if run.adapter.is_dir() else run.model
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


class RunFailed(ValueError):
    """A run of a comparison did not finish; `code` is its exit code, above 128 where a signal ended it."""

    def __init__(self, plan: Planned, folder: Path, code: int) -> None:
        super().__init__(
            f"the run {plan.name} of the comparison did not finish (exit code {code}; its own message stands above). "
            f"The finished ones are kept. Mend the cause and go on with: lorica compare --resume {folder.parent.parent}"
        )
        self.code = code


class RunDiverged(RunFailed):
    """Its loss or gradient became no number, as it would again."""


def run(plan: Planned, folder: Path, command: Command | None = None) -> Finished:
    """The finished run of `plan` in `folder`, run or continued where it has to be. Raises RunFailed, and RunDiverged
    without running again what has diverged."""
    where = RunFolder(folder)
    if where.diverged():
        raise RunDiverged(plan, folder, 1)
    if not where.report.exists():
        if where.holds_a_run():
            arguments = ["train", "--resume", str(folder)]
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            config = folder.parent / f"{plan.name}.yaml"
            write_atomically(config, plan.config.encode())
            arguments = ["train", str(config)]
        code = (command or in_a_process)(arguments)
        if code != 0 or not where.report.exists():
            raise (RunDiverged if where.diverged() else RunFailed)(plan, folder, code)
    before, after = (Evaluation.from_dict(read_json(path)) for path in (where.before, where.after))
    return Finished(plan, folder, read_json(where.report), before, after)


def in_a_process(arguments: list[str]) -> int:
    """The exit code of `lorica` with these arguments, its progress shown and its report not.

    A signal is raised here once the process has ended, which first writes its checkpoint. Ctrl-C in a terminal reaches
    both; SIGTERM is passed on.
    """
    stopped: KeyboardInterrupt | None = None
    with termination_raised():
        process = subprocess.Popen([sys.executable, "-m", "lorica", *arguments], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt as stop:
                stopped = stop
                if isinstance(stop, Terminated):
                    process.terminate()
    if stopped is not None:
        raise stopped
    code = process.returncode
    return code if code >= 0 else 128 - code
