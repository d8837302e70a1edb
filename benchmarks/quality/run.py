"""Methods of fine-tuning on some tasks, each at its own learning rate, three seeds: quality, memory, time, bytes.

    python benchmarks/quality/run.py --data FOLDER [--tasks e2e scan gsm8k e2e_longer] [--page docs/results.md]

FOLDER holds e2e_nlg/ (trainset.csv, testset_w_refs.csv), scan/ (tasks_train_simple.txt, tasks_test_simple.txt) and
gsm8k/ (train.jsonl, test.jsonl), as their authors publish them. The base is the one in the package. With one seed a
method is trained at a third, once and three times its default learning rate, and beyond while the best is at an end of
what was tried; the best of them is trained with two more seeds. A run that is finished is not run again, so the command
can be stopped and started at will; what is not there yet is left out of the table.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import lorica
from lorica.comparing.methods import Planned
from lorica.comparing.runs import Finished
from lorica.config import default_learning_rate
from lorica.demo import BASE
from lorica.evaluation.evaluation import Evaluation

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import methods  # noqa: E402  (a folder of scripts, not a package)
import peft_library  # noqa: E402
from machine import surroundings  # noqa: E402
from summary import summarise, tables  # noqa: E402
from tables import write_section  # noqa: E402
from tasks import TASKS, Task, write  # noqa: E402

FACTORS = (1 / 3, 1.0, 3.0)
FARTHEST = 9.0  # times the default learning rate, and its inverse
SEEDS = (0, 1, 2)
# Of a step that is cut small, as one of a larger model is for its memory: with the default of 1,024 all 16 rows of a
# step are computed at once, and what they keep for the backward pass is more than the weights of so small a model.
MICROBATCH_TOKENS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="*", choices=list(methods.METHODS), default=list(methods.METHODS))
    parser.add_argument("--rows", type=int, help="to train on, in place of each task's own number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "quality.json")
    parser.add_argument("--page", type=Path, help="Markdown page whose section between the quality marks is replaced")
    arguments = parser.parse_args()
    bench = Bench(arguments.data, arguments.work, arguments.threads, arguments.rows)
    content = surroundings() | {"base": _hash(BASE / "model.safetensors")}
    for task in (TASKS[name] for name in arguments.tasks):
        found, bytes_of = {}, {}
        for name in arguments.methods:
            found[name] = bench.best(task, name)
            bytes_of[name] = bench.step_bytes(task, name)
            _keep(arguments.out, content, task, bench.facts(task) | {"methods": summarise(found, bytes_of)})
    text = tables(json.loads(arguments.out.read_text(encoding="utf-8")))
    print(text)
    if arguments.page:
        write_section(arguments.page, "quality", text)


class Bench:
    """Runs that are not there yet."""

    def __init__(self, data: Path, work: Path, threads: int, rows: int | None) -> None:
        self.data, self.work, self.threads, self.rows = data, work, threads, rows
        self.width = json.loads((BASE / "config.json").read_text())["hidden_size"]

    def best(self, task: Task, method: str) -> tuple[dict[float, Finished], list[Finished]]:
        """By learning rate the runs of the first seed, and at the best of them those of all seeds."""
        kind = "full" if method == methods.FULL else "lora"
        rule = default_learning_rate(self.width, "llama", kind)[0]
        tried = {factor: self.run(task, method, rule * factor, SEEDS[0]) for factor in FACTORS}
        while True:
            best = min(tried, key=lambda factor: tried[factor].loss)
            beyond = best * 3 if best == max(tried) else best / 3 if best == min(tried) else None
            if beyond is None or not 1 / FARTHEST - 1e-9 <= beyond <= FARTHEST + 1e-9:
                break
            tried[beyond] = self.run(task, method, rule * beyond, SEEDS[0])
        others = [self.run(task, method, rule * best, seed, measure=seed == SEEDS[1]) for seed in SEEDS[1:]]
        return {factor * rule: run for factor, run in sorted(tried.items())}, [tried[best], *others]

    def run(self, task: Task, method: str, lr: float, seed: int, measure: bool = False) -> Finished:
        """With `measure`, answers are generated for the task's metric: by one seed of a method."""
        train, held_out = self.files(task)
        folder = self.work / task.name / f"{method.replace(' ', '-').replace(',', '')}-lr{lr:.3g}-seed{seed}"
        if method == methods.PEFT:
            self.run_peft(task, train, held_out, folder, lr, seed)
        elif not (folder / "report.json").exists():
            if (folder / "config.yaml").exists():
                lorica.train(resume=folder)
            else:
                lorica.train(overrides=self.settings(task, method, lr, seed, measure, folder, train, held_out))
            print(f"{folder.name}: done", file=sys.stderr, flush=True)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        before, after = (
            Evaluation.from_dict(json.loads((folder / f"{side}.json").read_text(encoding="utf-8")))
            for side in ("before", "after")
        )
        return Finished(Planned(method, lr, seed, folder.name, ""), folder, report, before, after)

    def settings(
        self, task: Task, method: str, lr: float, seed: int, measure: bool, folder: Path, train: Path, held_out: Path
    ) -> list[str]:
        metric = [f"evaluate.metric={task.metric}", f"evaluate.max_new_tokens={task.max_new_tokens}"]
        return [
            f"model.path={BASE}",
            "model.dtype=fp32",
            f"data.path={train}",
            "data.too_long=drop",
            f"evaluate.held_out={held_out}",
            *(metric if measure and task.metric else []),
            f"train.lr={lr}",
            f"train.seed={seed}",
            f"train.batch_size={task.batch_size}",
            f"system.threads={self.threads}",
            f"system.tokens_per_microbatch={MICROBATCH_TOKENS}",
            f"out={folder}",
            *methods.METHODS[method],
        ]

    def step_bytes(self, task: Task, method: str) -> int | None:
        """Tensors of a training step at its peak, as planned."""
        if method == methods.PEFT:
            return None
        settings = self.settings(task, method, 1e-3, SEEDS[0], False, self.work / "planned", *self.files(task))
        return lorica.plan(overrides=settings).tensor_bytes

    def run_peft(self, task: Task, train: Path, held_out: Path, folder: Path, lr: float, seed: int) -> None:
        """Its report beside those of Lorica's runs: the base's loss is that of Lorica's run."""
        if (folder / "report.json").exists():
            return
        lora = self.run(task, "LoRA r 16", *self._any_rate(task))
        started = time.perf_counter()
        after = peft_library.train(BASE, train, held_out, folder / "adapter", lr, seed, task.batch_size)
        seconds = time.perf_counter() - started
        report = {
            "before": lora.report["before"],
            "after": {"loss": after.scores.loss, "metrics": {}},
            "forgetting": None,
            "trainable_parameters": lora.report["trainable_parameters"],
            "measured": {"seconds": seconds},
        }
        for name, content in (("before", lora.before.to_dict()), ("after", after.to_dict()), ("report", report)):
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        print(f"{folder.name}: done", file=sys.stderr, flush=True)

    def _any_rate(self, task: Task) -> tuple[float, int]:
        return default_learning_rate(self.width, "llama", "lora")[0], SEEDS[0]

    def files(self, task: Task) -> tuple[Path, Path]:
        folder = self.work / task.name
        paths = folder / "train.jsonl", folder / "held_out.jsonl"
        if not all(path.exists() for path in paths):
            folder.mkdir(parents=True, exist_ok=True)
            return write(dataclasses.replace(task, rows=self.rows or task.rows), self.data, folder)
        return paths

    def facts(self, task: Task) -> dict[str, Any]:
        train, held_out = self.files(task)
        facts = dataclasses.asdict(task) | {"rows": sum(1 for _ in train.open(encoding="utf-8"))}
        return facts | {"training_sha256": _hash(train), "held_out_sha256": _hash(held_out)}


def _keep(out: Path, content: dict[str, Any], task: Task, found: dict[str, Any]) -> None:
    """Beside what other tasks have there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    tasks = json.loads(out.read_text(encoding="utf-8"))["tasks"] if out.exists() else {}
    out.write_text(json.dumps(content | {"tasks": tasks | {task.name: found}}, indent=1) + "\n", encoding="utf-8")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
