"""A comparison of ways to fine-tune on the same rows: LoRA, LoRA on packed bases, full fine-tuning.

First every method is run at a few learning rates with one seed, then at its best one with the other seeds. Everything
is in files: `comparison.yaml` (what all runs share), `methods.json` (what is compared), `runs/NAME/` (the runs, each
like any other), `comparison.json` and `comparison.html` (the result).
"""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica import config as configuration
from lorica.comparing.methods import Method, Planned, method_of, planned, rates
from lorica.comparing.page import render_page
from lorica.comparing.planned import plan_that_does_not_fit, planned_row
from lorica.comparing.runs import Command, Finished, RunDiverged, RunFailed, run
from lorica.comparing.table import rows
from lorica.config import Resolved, to_yaml
from lorica.files import read_json, write_atomically, write_json
from lorica.models.facts import width_and_type
from lorica.run.watch import Watcher
from lorica.training.interrupt import Interrupted
from lorica.training.run_folder import RunFolder
from lorica.units import shown_bytes

CONFIG, CALL, RESULT, PAGE = "comparison.yaml", "methods.json", "comparison.json", "comparison.html"
RUNS = "runs"
METHODS = ("lora", "nf4", "full")


@dataclass(frozen=True)
class Comparison:
    """`rows` are the methods, the best first, then those that do not fit, with their plan's figures; `best` is the
    first of them."""

    path: str
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "rows": self.rows, "best": self.rows[0]}


def compare(
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    out: str | Path = "runs/comparison",
    resume: str | Path | None = None,
    watcher: Watcher | None = None,
    command: Command | None = None,
    values_origin: str = "Python",
    **values: Any,
) -> Comparison:
    """Train every method at a third, once and three times its default learning rate, and the best of them with several
    seeds.

    Args:
        config, overrides, values: as for `lorica.train`; `method`, `model.weights`, `train.lr` and `out` are the
            comparison's to set, and its seeds count up from `train.seed`.
        methods: `lora`, `full`, and packed forms of the base (`nf4`, `q8_0`, `q4_k_m` ...) to train an adapter on.
        resume: the folder of a comparison to go on with, in place of everything else.
        command: runs `lorica` with arguments and returns its exit code; a process each where none is given.

    A method that does not fit in `system.memory`, or in what is free, is not run: its plan's figures stand in its
    place.

    Raises ValueError for anything wrong with the input, `RunFailed` where a run does not finish, `Interrupted` after a
    signal; finished runs are kept.
    """
    watcher = watcher or Watcher()
    if resume is not None:
        folder = Path(resume)
        if not (folder / CALL).is_file():
            raise ValueError(f"{folder} holds no comparison to resume (no {CALL}); give the folder of one.")
        call = read_json(folder / CALL)
        resolved = configuration.load(folder / CONFIG)
        return _Comparing(folder, resolved, call["methods"], call["seeds"], watcher, command).run()
    resolved = configuration.load(config, list(overrides), values or None, values_origin)
    _check(resolved, methods, seeds)
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. Go on with --resume {folder}, or give another out.")
    comparing = _Comparing(folder, resolved, methods, seeds, watcher, command)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CONFIG, to_yaml(resolved).encode())
    write_json(folder / CALL, {"methods": list(methods), "seeds": seeds})
    return comparing.run()


class _Comparing:
    def __init__(
        self,
        folder: Path,
        resolved: Resolved,
        methods: Sequence[str],
        seeds: int,
        watcher: Watcher,
        command: Command | None,
    ) -> None:
        self.folder, self.watcher, self.command = folder, watcher, command
        self.resolved = resolved
        self.methods = [method_of(name) for name in methods]
        self.seeds = [resolved.config.train.seed + number for number in range(seeds)]
        width, kind = width_and_type(resolved.config.model.path, resolved.config.model.revision)
        self.rates = {method.name: rates(width, kind, method) for method in self.methods}
        for method in self.methods:  # every configuration is checked before the first run
            self._planned(method, self.rates[method.name][0], self.seeds[0])

    def run(self) -> Comparison:
        plans = [row for method in self.methods if (row := self._planned_row(method)) is not None]
        left_out = {row["name"] for row in plans}
        methods = [method for method in self.methods if method.name not in left_out]
        if not methods:
            needed = ", ".join(f"{row['name']} at least {shown_bytes(row['peak_memory_bytes'])}" for row in plans)
            raise ValueError(
                f"none of the methods fits in {shown_bytes(plans[0]['budget_bytes'])} of memory: {needed}."
            )
        tried = {method.name: self._tried(method) for method in methods}
        chosen: dict[str, list[Finished]] = {}
        for method in methods:
            finished = [run for run in tried[method.name].values() if run is not None]
            best = min(finished, key=lambda run: run.loss)
            others = [self._run(method, best.plan.lr, seed) for seed in self.seeds[1:]]
            chosen[method.name] = [best, *others]
        found = Comparison(str(self.folder), [*rows(tried, chosen), *plans])
        write_json(self.folder / RESULT, found.to_dict())
        write_atomically(self.folder / PAGE, render_page(found.to_dict()).encode())
        return found

    def _planned_row(self, method: Method) -> dict[str, Any] | None:
        """Where the method does not fit and has not begun."""
        plans = [self._planned(method, lr, self.seeds[0]) for lr in self.rates[method.name]]
        if any(RunFolder(self.folder / RUNS / plan.name).holds_a_run() for plan in plans):
            return None
        middle = plans[len(plans) // 2]
        made = plan_that_does_not_fit(middle, self.watcher)
        if made is None:
            return None
        self.watcher.notice(
            f"{method.name} is planned, not run: it takes {shown_bytes(made.peak_bytes)} at least, and may use "
            f"{shown_bytes(made.budget)}"
        )
        return planned_row(middle, made)

    def _planned(self, method: Method, lr: float, seed: int) -> Planned:
        return planned(self.resolved, method, lr, seed, str(self.folder / RUNS))

    def _tried(self, method: Method) -> dict[float, Finished | None]:
        """By learning rate the run of the first seed, None where it diverged."""
        found: dict[float, Finished | None] = {}
        for lr in self.rates[method.name]:
            try:
                finished = self._run(method, lr, self.seeds[0])
                found[lr] = finished if math.isfinite(finished.loss) else None
            except RunDiverged:
                self.watcher.notice(f"{method.name} diverged at a learning rate of {lr:.3g}")
                found[lr] = None
        if not any(found.values()):
            raise ValueError(
                f"{method.name} diverged at every learning rate, {', '.join(f'{lr:.3g}' for lr in found)}. "
                "Look at the rows with `lorica data check`, or leave the method out."
            )
        return found

    def _run(self, method: Method, lr: float, seed: int) -> Finished:
        plan = self._planned(method, lr, seed)
        self.watcher.notice(f"{method.name}, learning rate {lr:.3g}, seed {seed}")
        try:
            finished = run(plan, self.folder / RUNS / plan.name, self.command)
        except KeyboardInterrupt as stop:
            raise Interrupted(self.folder, None, getattr(stop, "signal", signal.SIGINT), "compare") from None
        except RunFailed as failed:
            if failed.code > 128:
                raise Interrupted(self.folder, None, failed.code - 128, "compare") from None
            raise
        self.watcher.notice(f"held-out loss {finished.loss:.4f}")
        return finished


def _check(resolved: Resolved, methods: Sequence[str], seeds: int) -> None:
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise ValueError(f"a comparison takes two methods or more, each once; got {', '.join(methods) or 'none'}.")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1.")
    given = [key for key in ("method", "model.weights", "train.lr", "out") if resolved.given(key)]
    if given:
        raise ValueError(f"{given[0]} is the comparison's to set; leave it out of its configuration.")
    if not resolved.config.evaluate.enabled:
        raise ValueError("a comparison is made on held-out rows; leave evaluate.enabled on.")
