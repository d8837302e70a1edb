"""Runs under forced budgets: from when its rows are read each process may take so much address space and no more, and
plans for what that leaves.

A plan that says it fits has to run to its end. Prints a line a budget, and exits with 1 if one did not.

python benchmarks/plan_budgets.py [number of budgets]
"""

import os
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from plan_resident import write_base, write_rows

import lorica
from lorica.planning.here import virtual_bytes
from lorica.run import Watcher

SIZE, LENGTH = (256, 704, 6, 8000), 2000
LEAST, MOST = 220e6, 600e6  # bytes beyond what the process has


class Limiter(Watcher):
    """Sets the limit, `extra` bytes beyond what the process has, when the base is there and the plan is to be made."""

    def __init__(self, extra: int) -> None:
        self.extra, self.told = extra, list[str]()

    def notice(self, text: str) -> None:
        self.told.append(text)
        if text.startswith("read "):
            resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + self.extra, resource.RLIM_INFINITY))


def run(folder: Path, number: int, extra: int) -> str:
    """What became of a run that may take `extra` bytes more than there are now."""
    listener = Limiter(extra)
    settings: dict[str, Any] = {"train": {"steps": 3, "batch_size": 8}, "system": {"cache": "none", "threads": 1}}
    settings["evaluate"] = {"enabled": False}
    out = folder / f"run-{number}"
    done = lorica.train(
        model=str(folder / "base"), data=str(folder / "rows.jsonl"), out=str(out), watcher=listener, **settings
    )
    claimed = not any("trying with the least" in text for text in listener.told)
    less = sum("which gives the same result" in text for text in listener.told)
    planned = lorica.config.load(out / "config.yaml").config.system  # type: ignore[attr-defined]
    how = f"{planned.tokens_per_microbatch} tokens, {planned.checkpointing}"
    ended = f"{done.steps} steps, {how}, {less} smaller plans, loss {done.final_loss:.5f}"
    return f"{'fits' if claimed else 'does not fit'}, {ended}"


def in_a_process_of_its_own(folder: Path, number: int, extra: int) -> tuple[bool, str]:
    """Whether the run came to its end, and what it says."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, run(folder, number, extra).encode())
            os._exit(0)
        except (ValueError, MemoryError, RuntimeError, OSError):
            os.write(writer, traceback.format_exc()[-300:].encode())
            os._exit(1)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return status == 0, said.read().strip().replace("\n", " ")


def main(count: int) -> int:
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_base(folder / "base", *SIZE)
        write_rows(folder / "rows.jsonl", LENGTH)
        for number in range(count):
            extra = int(LEAST * (MOST / LEAST) ** (number / max(1, count - 1)))
            ended, said = in_a_process_of_its_own(folder, number, extra)
            failures += not ended and "does not fit" not in said
            print(f"{extra / 1e6:6.0f} MB more: {'ended' if ended else 'STOPPED'}: {said}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
