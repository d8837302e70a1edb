"""Lorica on the task, by the function that `lorica train` calls: adapter, or all weights.

python benchmarks/peers/lorica_run.py lora|full TASK_JSON [section.key=value ...]
"""

import sys
import tempfile
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from task import Task, report

from lorica import train
from lorica.training.run_folder import RunFolder


def main() -> None:
    method, task, overrides = sys.argv[1], Task.from_json(sys.argv[2]), sys.argv[3:]
    settings = [
        f"method={method}",
        "model.dtype=fp32",
        *([f"lora.r={task.rank}", f"lora.alpha={task.alpha}"] if method == "lora" else []),
        f"train.steps={task.steps}",
        f"train.batch_size={task.batch_size}",
        f"train.lr={task.lr}",
        "train.schedule=constant",
        "train.warmup=0",
        "evaluate.enabled=false",
        "system.device=cpu",
        f"system.threads={task.threads}",
        *overrides,
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = train(overrides=settings, model=str(task.model), data=str(task.rows), out=str(Path(folder) / "run"))
        records = RunFolder(run.run).read_metrics()
    until = [0.0, *(record["seconds"] for record in records)]
    seconds = [after - before for before, after in pairwise(until)]
    report([record["loss"] for record in records], seconds, {name: version(name) for name in ("lorica", "torch")})


if __name__ == "__main__":
    main()
