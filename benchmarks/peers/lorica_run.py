"""Lorica on the task, by the function that `lorica train` calls: adapter, or all weights.

python benchmarks/peers/lorica_run.py lora|full fp32|bf16 TASK_JSON [section.key=value ...]
"""

import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from task import MAX_LENGTH, Task, differences, report

from lorica import train
from lorica.run.watch import Watcher


class Stopwatch(Watcher):
    """Losses, and the clock and the process's own time at the end of every step and before the first."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.at: list[float] = []
        self.cpu_at: list[float] = []
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def record(self, record: dict[str, float | int], total_steps: int) -> None:
        if "loss" not in record:
            return
        now, cpu_now = time.perf_counter(), time.process_time()
        if not self.at:  # the record says how long the first step took
            self.at, self.cpu_at = [now - record["seconds"]], [cpu_now - record["seconds"]]
        self.losses.append(record["loss"])
        self.at.append(now)
        self.cpu_at.append(cpu_now)


def main() -> None:
    method, dtype, task, overrides = sys.argv[1], sys.argv[2], Task.from_json(sys.argv[3]), sys.argv[4:]
    settings = [
        f"method={method}",
        f"model.dtype={dtype}",
        *([f"lora.r={task.rank}", f"lora.alpha={task.alpha}"] if method == "lora" else []),
        f"train.steps={task.steps}",
        f"train.batch_size={task.batch_size}",
        f"train.lr={task.lr}",
        f"data.max_length={MAX_LENGTH}",
        "train.schedule=constant",
        "train.warmup=0",
        "evaluate.enabled=false",
        "system.device=cpu",
        f"system.threads={task.threads}",
        *overrides,
    ]
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {"model": str(task.model), "data": str(task.rows), "out": str(Path(folder) / "run")}
        train(overrides=settings, watcher=watch, **given)
    versions = {name: version(name) for name in ("lorica", "torch")}
    engine = next((text for text in watch.notices if "layers lean" in text or "plain path" in text), "")
    report(watch.losses, differences(watch.at), differences(watch.cpu_at), versions, engine=engine.partition("; ")[2])


if __name__ == "__main__":
    main()
