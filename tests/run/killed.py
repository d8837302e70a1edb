"""Runs in processes of their own that are killed: at a moment, or before a chosen change of a file.

The processes are forked from a server that has imported everything, so each costs little more than its training.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lorica

PRELOADED = ["lorica.run", "transformers.models.llama.modeling_llama"]
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
NEVER = 0


def start(values: dict[str, Any], kill_before: int = NEVER) -> BaseProcess:
    """Start the run of `values`, or resume it where its folder holds one. With `kill_before` n, the process kills
    itself just before it changes a file or folder of the run for the nth time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_train, args=(values, kill_before))
    process.start()
    return process


def finish(values: dict[str, Any], kill_before: int = NEVER) -> int:
    """Run to the end; returns the exit code, negative for a signal."""
    process = start(values, kill_before)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def kill_after(values: dict[str, Any], seconds: float) -> bool:
    """Kill the run after so many seconds; whether it was still running."""
    process = start(values)
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _train(values: dict[str, Any], kill_before: int) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    if kill_before:
        _kill_before(kill_before, values["out"])
    if (Path(values["out"]) / "config.yaml").exists():
        lorica.train(resume=values["out"])
    else:
        lorica.train(**values)


def _kill_before(number: int, folder: str) -> None:
    numbers = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(folder):
            return
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not reads and next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
