"""Begin a run or continue one: what must hold before it touches its folder, and how it tells of being stopped."""

import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorica import config as configuration
from lorica.config import derive, to_yaml
from lorica.files import read_json, write_atomically, write_json
from lorica.lora import attach
from lorica.run.execute import RunResult, execute, prepare_subject
from lorica.run.prepare import Prepared, prepare
from lorica.run.receipt import receipt, settings_with_origins
from lorica.run.sample import start_sample
from lorica.run.watch import Watcher
from lorica.training.interrupt import Interrupted, termination_raised
from lorica.training.memory import is_out_of_memory
from lorica.training.memory import told as allocator_said
from lorica.training.run_folder import RunFolder


def train(
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: str | Path | None = None,
    watcher: Watcher | None = None,
    values_origin: str = "Python",
    **values: Any,
) -> RunResult:
    """Fine-tune, from a configuration file, keyword values shaped like one, overrides "section.key=value", or all
    three: `train(model="path", data="rows.jsonl", lora={"r": 16}, train={"steps": 100})`.

    With `resume`, the run in that folder is continued instead, and ends with the weights it would have ended with; only
    `system.*` may then be overridden. `values_origin` is what errors and the receipt name as the origin of `values`.
    Raises ValueError for anything wrong with the input or the disk, `Interrupted` after a signal.
    """
    watcher = watcher or Watcher()
    if resume is not None:
        if config is not None or values or any(not override.startswith("system.") for override in overrides):
            raise ValueError(
                "a resumed run keeps its own configuration; only system.key=value can be given with resume."
            )
        return _resume(RunFolder(resume), overrides, watcher)
    resolved = configuration.load(config, list(overrides), values or None, values_origin)
    if resolved.config.out is not None:
        _refuse_second_run(RunFolder(resolved.config.out))  # before the long look at base and rows
    return begin(prepare(resolved, watcher), watcher)


def begin(prepared: Prepared, watcher: Watcher, earlier: RunFolder | None = None) -> RunResult:
    """A run of what was prepared, in the folder that its configuration names; from the newest checkpoint on that an
    `earlier` one of the same settings left."""
    searching = prepared.resolved.config.train.lr == "auto"
    if searching:
        _check_search(prepared)
    subject = None if searching else prepare_subject(prepared, watcher)
    out = prepared.resolved.config.out
    assert out is not None
    run = RunFolder(out)
    with run.locked(), _stops_told(run):
        _refuse_second_run(run)
        if earlier is not None:
            _take_over(earlier, run)
        _write_settings(prepared, run)
        if subject is None:
            prepared = _searched(prepared, run, watcher)
            subject = prepare_subject(prepared, watcher)
        return execute(prepared, subject, run, watcher)


def _check_search(prepared: Prepared) -> None:
    """Raises ValueError, before the run's folder is touched, for a run that is too short or an adapter that cannot be
    put on this base."""
    from lorica.sweeping.learning_rate import search_steps  # which needs the rooms that this one is made of

    search_steps(prepared)
    attach(prepared.base, prepared.resolved.config.lora, sample=start_sample(prepared)).detach()


def _searched(prepared: Prepared, run: RunFolder, watcher: Watcher) -> Prepared:
    """With the learning rate that a search finds, in the run's own files too: a resumed run does not search again. It
    goes on from where the search left that rate."""
    from lorica.sweeping.learning_rate import search_learning_rate

    found = search_learning_rate(prepared, run, watcher)
    _take_over(RunFolder(run.path / found["goes_on"]), run)
    resolved = derive(prepared.resolved, "train.lr", found["chosen"], f"{found['reason']} ({run.search.name})")
    after = replace(prepared, resolved=resolved)
    if prepared.origins is not None:
        after.origins = prepared.origins | {"train.lr": settings_with_origins(resolved)["train.lr"]}
    _write_settings(after, run)
    return after


def _take_over(earlier: RunFolder, run: RunFolder) -> None:
    shutil.copytree(earlier.checkpoints, run.checkpoints, dirs_exist_ok=True)
    shutil.copyfile(earlier.metrics, run.metrics)


def _write_settings(prepared: Prepared, run: RunFolder) -> None:
    """The receipt and the configuration; those of a resumed run keep the origins of its first start."""
    made, resolved = receipt_of(prepared), prepared.resolved
    if prepared.origins is not None:
        made["settings"] = prepared.origins
        resolved = replace(resolved, origins={key: setting["origin"] for key, setting in prepared.origins.items()})
    write_json(run.receipt, made)
    write_atomically(run.config, to_yaml(resolved).encode())  # last: it says that the folder holds a run


def _refuse_second_run(run: RunFolder) -> None:
    if run.holds_a_run():
        raise ValueError(
            f"{run.path} already holds a run. Continue it with --resume {run.quoted}, or give another out."
        )


def _resume(run: RunFolder, overrides: Sequence[str], watcher: Watcher) -> RunResult:
    if not run.holds_a_run():
        raise ValueError(f"{run.path} holds no run to resume (no {run.config.name}); give the folder of a run.")
    if run.report.exists():
        raise ValueError(f"the run in {run.path} is finished; see it with: lorica inspect {run.quoted}")
    with run.locked(), _stops_told(run):
        return _go_on(prepare(configuration.load(run.config, list(overrides)), watcher), run, watcher)


def go_on(prepared: Prepared, watcher: Watcher) -> RunResult:
    """The run that was begun of what was prepared, from where it stands. Raises ValueError where it is another."""
    run = RunFolder(str(prepared.resolved.config.out))
    with run.locked(), _stops_told(run):
        return _go_on(prepared, run, watcher)


def _go_on(prepared: Prepared, run: RunFolder, watcher: Watcher) -> RunResult:
    rate = read_json(run.receipt)["settings"]["train.lr"]["value"]
    killed_between = prepared.resolved.config.train.lr == "auto" != rate  # the two files that name what was found
    if killed_between:
        prepared = replace(prepared, resolved=derive(prepared.resolved, "train.lr", rate, "searched"))
    prepared.origins = check_same(run.receipt, prepared, run.config, watcher)["settings"]
    if killed_between:
        _write_settings(prepared, run)
    if prepared.resolved.config.train.lr == "auto":
        prepared = _searched(prepared, run, watcher)
    return execute(prepared, prepare_subject(prepared, watcher), run, watcher)


@contextmanager
def _stops_told(run: RunFolder) -> Iterator[None]:
    """What stops a run from outside, in words that say how to go on."""
    onwards = f"lorica train --resume {run.quoted}"
    try:
        with termination_raised():
            yield
    except Interrupted:
        raise
    except KeyboardInterrupt as stop:
        raise Interrupted(run.path, None, getattr(stop, "signal", signal.SIGINT)) from None
    except OSError as error:
        cause = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        then = f"go on with: {onwards}" if run.holds_a_run() else "start again"
        raise ValueError(
            f"the run in {run.path} stopped, because a file could not be written or read ({cause}). What it had "
            f"written before is intact; mend that (free disk space?), then {then}"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"the run in {run.path} ran out of memory ({allocator_said(error)}). What it had written before is "
            "intact. Go on with less in memory at a time, which gives the same result: "
            f"{onwards} system.tokens_per_microbatch=256 system.checkpointing=full"
        ) from error


def receipt_of(prepared: Prepared) -> dict[str, Any]:
    return receipt(prepared.resolved, prepared.base, prepared.rows)


def check_same(kept: Path, prepared: Prepared, config: Path, watcher: Watcher) -> dict[str, Any]:
    """The receipt that was `kept` where something began. Raises ValueError if what is prepared now is not that."""
    before, now = read_json(kept), receipt_of(prepared)
    for part, told in (("base", "the base model"), ("data", "the data"), ("settings_hash", config.name)):
        if before[part] != now[part]:
            raise ValueError(
                f"{told} is not what the run in {kept.parent} began with, so it cannot be continued to the same "
                "result. Put it back as it was, or start a new run."
            )
    _note_other_machine(before, now, watcher)
    return before


def _note_other_machine(before: Mapping[str, Any], now: Mapping[str, Any], watcher: Watcher) -> None:
    """Bit for bit holds on the same machine with the same versions; elsewhere a resumed run is as good, not equal."""
    then, here = ({**made["versions"], **made["machine"]} for made in (before, now))
    changed = [f"{name} {then.get(name)} -> {value}" for name, value in here.items() if then.get(name) != value]
    if changed:
        watcher.notice(f"resumed on another machine or version, so equal up to rounding only: {', '.join(changed)}")
