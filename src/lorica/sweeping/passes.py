"""One pass over the base for some trials: each a lane, taken up where it stands, trained on, measured and left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorica.config import Resolved
from lorica.evaluation.scores import Scores, score_lanes
from lorica.lora import Lane, attach
from lorica.planning.keeping import apply_checkpointing
from lorica.run.prepare import Prepared
from lorica.run.sample import start_sample
from lorica.run.watch import Watcher
from lorica.sweeping.groups import grouped
from lorica.sweeping.trial import TrialState
from lorica.training.interrupt import StopRequest
from lorica.training.lanes import LaneLoop, LaneRun
from lorica.training.lanes.loop import Record
from lorica.training.schedule import total_steps
from lorica.training.subject import Subject, subject_of

LEAST_CAPACITY = 64  # tokens of a lane's microbatch


def train_in_passes(
    prepared: Prepared,
    trials: Sequence[TrialState],
    end: Callable[[TrialState], int],
    lanes: int,
    watcher: Watcher,
    request: StopRequest,
) -> bool:
    """Train and measure each trial up to the step that `end` gives for it, at most `lanes` at once; those that have
    failed or are measured there already are left.

    Returns whether all got there: a signal ends it before, with everything kept.
    """
    waiting = {trial.name: trial for trial in trials if trial.failed is None and end(trial) not in trial.scores}
    for group in grouped(waiting, lanes):
        until = end(group[0])
        watcher.notice(f"training {len(group)} of {len(trials)} trials to step {until}")
        arrived = train_together(
            prepared,
            group,
            until,
            lambda: request.number != 0,
            lambda name, record: watcher.record(record, steps_of(waiting[name].resolved, prepared)),
        )
        for trial in group:
            if trial.failed:
                watcher.notice(f"{trial.name} was stopped: {trial.failed}; the others go on")
        if not arrived:
            return False
    return True


def train_together(
    prepared: Prepared,
    trials: Sequence[TrialState],
    until: int,
    stop: Callable[[], bool],
    on_record: Callable[[str, Record], None],
) -> bool:
    """Train `trials`, which share a pass, up to step `until`, and measure them there; leaves the base as it was.

    Returns whether they got there; `stop`, asked after every step, ends them before, with checkpoints written.
    """
    lanes = [Lane(trial.resolved.config.lora, trial.resolved.config.train.seed) for trial in trials]
    adapter = attach(prepared.base, lanes=lanes, sample=start_sample(prepared))
    system = prepared.resolved.config.system
    try:
        subject = subject_of(prepared.base.model, adapter, system.checkpointing == "full", system.engine)
        apply_checkpointing(subject, system.checkpointing)
        capacity = prepared.capacity if prepared.capacity == 1 else max(LEAST_CAPACITY, prepared.capacity // len(lanes))
        runs = [lane_run(trial, prepared) for trial in trials]
        loop = LaneLoop(subject, runs, capacity, on_record)
        _take_up(loop, trials)
        loop.train(until, stop)
        arrived = all(run.failed is not None or run.progress.step >= until for run in runs)
        for number, (trial, run) in enumerate(zip(trials, runs, strict=True)):
            trial.save(run, loop.state(number))
        if arrived:
            _measure(prepared, subject, trials, until, capacity)
    finally:
        adapter.detach()
    return arrived


def lane_run(trial: TrialState, prepared: Prepared) -> LaneRun:
    """The trial as a lane's run over the prepared rows."""
    train, rows = trial.resolved.config.train, prepared.rows.training
    assert isinstance(train.lr, float)
    return LaneRun(trial.name, rows, train, train.lr, steps_of(trial.resolved, prepared))


def steps_of(resolved: Resolved, prepared: Prepared) -> int:
    """Optimiser steps of a whole run."""
    train = resolved.config.train
    return total_steps(len(prepared.rows.training), train.batch_size, train.epochs, train.steps)


def _take_up(loop: LaneLoop, trials: Sequence[TrialState]) -> None:
    for number, (trial, run) in enumerate(zip(trials, loop.runs, strict=True)):
        found = trial.checkpoint()
        if found is not None:
            run.progress, tensors = found
            run.records = trial.records(run.progress.step)
            loop.restore(number, tensors)
    steps = {run.progress.step for run in loop.runs}
    assert len(steps) == 1, f"trials of one pass stand at different steps: {steps}"


def _measure(prepared: Prepared, subject: Subject, trials: Sequence[TrialState], step: int, capacity: int) -> None:
    with subject.evaluating():
        found: list[Scores] = score_lanes(
            prepared.base.model,
            prepared.rows.held_out,
            capacity,
            subject.device,
            len(trials),
            engine=subject.engine,
        )
    for trial, scores in zip(trials, found, strict=True):
        trial.save_scores(step, scores)
