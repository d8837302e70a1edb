"""A sweep: many short runs over one base, the best of which is finished, reported and kept as a run of its own.

Everything is in files as soon as it is known: `sweep.yaml` (what all trials share), `receipt.json` (of which base and
rows), `grid.json` (what is varied), `trials/NAME/` (metrics, scores and a checkpoint each), `sweep.json` and
`sweep.html` (the comparison), `best/` (the winner, a run like any other). A sweep that was stopped goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorica import config as configuration
from lorica.config import ConfigError, Resolved, derive, override, to_yaml
from lorica.files import read_json, write_atomically, write_json
from lorica.run.execute import fit_packing
from lorica.run.prepare import Prepared, derive_values, prepare
from lorica.run.start import begin, check_same, go_on, receipt_of
from lorica.run.watch import Watcher
from lorica.sweeping.comparison import comparison
from lorica.sweeping.grid import Trial, trials, varied
from lorica.sweeping.halving import SHARE, best, rungs, survivors
from lorica.sweeping.page import render_page
from lorica.sweeping.passes import steps_of, train_in_passes
from lorica.sweeping.trial import TrialState
from lorica.training.interrupt import Interrupted, StopRequest, stop_on_signal
from lorica.training.memory import is_out_of_memory, told
from lorica.training.run_folder import RunFolder
from lorica.training.schedule import warmup_steps

CONFIG, RECEIPT, GRID = "sweep.yaml", "receipt.json", "grid.json"
RESULT, PAGE, BEST = "sweep.json", "sweep.html", "best"
VARIED = ("lora.", "train.")  # other settings would change the base or the rows, and losses could not be compared
MOST_LANES = 8


@dataclass(frozen=True)
class SweepResult:
    """`rows` are the trials, the best first; `best` is the winner's row and the folder of its run."""

    path: str
    rows: list[dict[str, Any]]
    best: dict[str, Any]
    spent: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "rows": self.rows, "best": self.best, "spent": self.spent}


def sweep(
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    share: int = SHARE,
    lanes: int = MOST_LANES,
    resume: str | Path | None = None,
    watcher: Watcher | None = None,
    values_origin: str = "Python",
    **values: Any,
) -> SweepResult:
    """Try every combination of the overrides that have several values, and finish the best.

    Args:
        overrides: "section.key=value"; those with several values ("train.lr=1e-4,3e-4", "train.lr=log:1e-5:1e-3:5") are
            varied. What may be varied is `lora.*` and `train.*`.
        out: the folder; a new one, named by base, rows and time, where none is given.
        share: of the trials, one in so many goes on from one comparison to the next; 1 finishes all.
        lanes: how many trials are trained at once, at most.
        resume: the folder of a sweep to go on with, in place of everything else.

    Raises ValueError for anything wrong with the input, `Interrupted` after a signal, with everything kept.
    """
    watcher = watcher or Watcher()
    if lanes < 1 or share < 1:
        raise ValueError(f"lanes is {lanes} and share is {share}; expected at least 1 each.")
    if resume is not None:
        return _Sweep.taken_up(Path(resume), lanes, watcher).run()
    fixed, several = varied(overrides)
    chosen = trials(several)
    given = values | ({} if out is None else {"out": str(out)})
    resolved = configuration.load(config, fixed, given or None, values_origin)
    _check_varied([key for key, _ in several])
    for trial in _overridden(resolved, chosen):
        settings = {key: configuration.value_of(trial.config, key) for key in configuration.LEAVES}
        configuration.check_combination(settings, "sweep")
    prepared = prepare(resolved, watcher)
    folder = Path(str(prepared.resolved.config.out))
    found = _Sweep(folder, prepared, _states(prepared, chosen), share, lanes, watcher)
    found.begin(several)
    return found.run()


class _Sweep:
    def __init__(
        self, folder: Path, prepared: Prepared, trials: list[TrialState], share: int, lanes: int, watcher: Watcher
    ) -> None:
        self.folder, self.prepared, self.share, self.lanes, self.watcher = folder, prepared, share, lanes, watcher
        self.trials = {trial.name: trial for trial in trials}
        self._check_rows()
        fit_packing(prepared, watcher)
        self.steps = {name: steps_of(trial.resolved, prepared) for name, trial in self.trials.items()}
        for name, trial in self.trials.items():
            warmup_steps(self.steps[name], trial.resolved.config.train.warmup)

    @classmethod
    def taken_up(cls, folder: Path, lanes: int, watcher: Watcher) -> _Sweep:
        """The sweep that was begun in `folder`."""
        if not (folder / GRID).is_file():
            raise ValueError(f"{folder} holds no sweep to resume (no {GRID}); give the folder of a sweep.")
        grid = read_json(folder / GRID)
        prepared = prepare(configuration.load(folder / CONFIG), watcher)
        check_same(folder / RECEIPT, prepared, folder / CONFIG, watcher)
        chosen = trials([(key, values) for key, values in grid["varied"]])
        found = cls(folder, prepared, _states(prepared, chosen), grid["share"], lanes, watcher)
        for trial in found.trials.values():
            trial.load()
        return found

    def begin(self, several: Sequence[tuple[str, list[str]]]) -> None:
        """Write what a resumed sweep needs. Raises ValueError where the folder is taken."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(
                f"{self.folder} is not empty. Go on with the sweep in it with --resume {self.folder}, or give another "
                "out."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / CONFIG, to_yaml(self.prepared.resolved).encode())
        write_json(self.folder / RECEIPT, receipt_of(self.prepared))
        write_json(self.folder / GRID, {"varied": [list(item) for item in several], "share": self.share})

    def run(self) -> SweepResult:
        with RunFolder(self.folder).locked(), stop_on_signal() as request:
            ends = rungs(len(self.trials), max(self.steps.values()), self.share)
            alive = list(self.trials)
            for number, end in enumerate(ends):
                self._train(alive, end, request)
                losses = {name: self.trials[name].loss(self._step(name, end)) for name in alive}
                last = number == len(ends) - 1
                alive = best(losses, len(alive) if last else survivors(len(alive), self.share))
                self._tell(losses, alive, end, last)
                if not alive:
                    raise ValueError(self._all_failed())
        return self._finish(alive[0], ends)

    def _step(self, name: str, end: int) -> int:
        """Trials of other batch sizes have fewer steps in all; a comparison comes at the same share of them."""
        return max(1, round(end * self.steps[name] / max(self.steps.values())))

    def _train(self, names: Sequence[str], end: int, request: StopRequest) -> None:
        trials = [self.trials[name] for name in names]
        try:
            arrived = train_in_passes(
                self.prepared, trials, lambda trial: self._step(trial.name, end), self.lanes, self.watcher, request
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(
                f"{self.lanes} trials side by side ran out of memory ({told(error)}). What was measured before is "
                f"kept; go on with fewer: lorica sweep --resume {self.folder} --lanes {max(1, self.lanes // 2)}"
            ) from error
        if not arrived:
            number, request.number = request.number, 0
            raise Interrupted(self.folder, None, number, "sweep")

    def _tell(self, losses: dict[str, float | None], alive: Sequence[str], end: int, last: bool) -> None:
        shown = ", ".join(f"{name} {losses[name]:.4f}" for name in alive[:5])
        when = "finished" if last else f"after step {end}, {len(alive)} of {len(losses)} go on"
        self.watcher.notice(f"{when}: {shown}")

    def _finish(self, winner: str, ends: Sequence[int]) -> SweepResult:
        trial = self.trials[winner]
        rows = comparison(list(self.trials.values()), winner)
        run = self.folder / BEST
        try:
            self._finish_run(trial, RunFolder(run))
        except Interrupted as stop:
            raise Interrupted(self.folder, stop.step, stop.signal, "sweep") from None
        row = next(row for row in rows if row["name"] == winner)
        spent = {
            "seconds": sum(row["seconds"] for row in rows),
            "steps": sum(row["steps"] for row in rows),
            "steps_of_all_finished": sum(self.steps.values()),
            "compared_after_steps": list(ends),
        }
        result = SweepResult(str(self.folder), rows, row | {"run": str(run)}, spent)
        write_json(self.folder / RESULT, result.to_dict())
        write_atomically(self.folder / PAGE, render_page(result.to_dict()).encode())
        return result

    def _finish_run(self, trial: TrialState, run: RunFolder) -> None:
        """Without the plan, which is one of a run alone."""
        resolved = derive(trial.resolved, "out", str(run.path), "the best of a sweep")
        chosen = replace(self.prepared, resolved=resolved, plan=None)
        if run.report.exists():
            return
        if run.holds_a_run():
            go_on(chosen, self.watcher)
        else:
            begin(chosen, self.watcher, trial.run)

    def _all_failed(self) -> str:
        reasons = "; ".join(f"{name}: {trial.failed}" for name, trial in self.trials.items() if trial.failed)
        return (
            f"every trial of the sweep in {self.folder} was stopped, because its loss was no number ({reasons}). Try "
            "lower learning rates, or look at the rows with `lorica data check`."
        )

    def _check_rows(self) -> None:
        if not self.prepared.rows.held_out:
            raise ValueError(
                "a sweep compares trials on held-out rows, and there are none. Name a file of rows with "
                "evaluate.held_out, or a share such as evaluate.held_out=0.1, and leave evaluate.enabled on."
            )


def _check_varied(keys: Sequence[str]) -> None:
    outside = [key for key in keys if key in configuration.LEAVES and not key.startswith(VARIED)]
    if outside:
        raise ValueError(
            f"a sweep varies lora.* and train.*, not {outside[0]}: over another base or other rows losses cannot be "
            "compared. Make a sweep for each, or use `lorica compare`."
        )


def _overridden(resolved: Resolved, chosen: Sequence[Trial]) -> list[Resolved]:
    """Each trial's whole configuration. Raises ConfigError with the problems of all of them, each once."""
    found: list[Resolved] = []
    problems = []
    for trial in chosen:
        try:
            found.append(override(resolved, trial.settings))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return found


def _states(prepared: Prepared, chosen: Sequence[Trial]) -> list[TrialState]:
    folder = Path(str(prepared.resolved.config.out)) / "trials"
    return [
        TrialState(trial, derive_values(resolved, prepared.base), folder / trial.name)
        for trial, resolved in zip(chosen, _overridden(prepared.resolved, chosen), strict=True)
    ]


def read_result(folder: str | Path) -> dict[str, Any]:
    """What a finished sweep found. Raises ValueError where it is not finished."""
    path = Path(folder) / RESULT
    if not path.is_file():
        raise ValueError(f"the sweep in {folder} is not finished (no {RESULT}); go on with --resume {folder}.")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
