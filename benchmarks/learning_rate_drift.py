"""Which learning rate is best after a part of a run's steps, and which at its end.

    python benchmarks/learning_rate_drift.py --data FOLDER [--tasks e2e scan ...] [--model DIR] [--batch-size 2]

Eight rates from a quarter of the rule of the width to four times it are trained side by side in the run's own schedule.
After 5, 7.5, 10 and 15 % of the steps the held-out loss is measured of the weights as they are, and of their average
over the later half of the steps so far; and once more at the end. FOLDER holds e2e_nlg/, scan/, gsm8k/, banking77/ and
snips/. Runs are added to those that the result holds.
"""

import argparse
import csv
import dataclasses
import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lorica import config as configuration
from lorica.config import default_learning_rate
from lorica.demo import BASE
from lorica.demo.task import write_demo_data
from lorica.evaluation.scores import score_lanes
from lorica.lora import Lane, attach
from lorica.run.prepare import Prepared, prepare
from lorica.run.watch import Watcher
from lorica.sweeping.passes import LEAST_CAPACITY, steps_of
from lorica.training.lanes import LaneLoop, LaneRun
from lorica.training.subject import subject_of

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "quality")]

from machine import surroundings  # noqa: E402  (a folder of scripts, not a package)
from tables import table  # noqa: E402
from tasks import TASKS, Pair, write  # noqa: E402

FACTORS = [2.0**power for power in (-2, -1, -0.5, 0, 0.5, 1, 1.5, 2)]
SHARES = (0.05, 0.075, 0.1, 0.15)
ROWS, HELD_OUT, EARLY = 800, 400, 96  # held-out rows at the end, and before it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=["demo", "e2e", "scan", "banking77", "snips"])
    parser.add_argument("--model", type=Path, default=BASE)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/learning_rate_drift"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learning_rate_drift.json")
    arguments = parser.parse_args()
    content = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {"runs": {}}
    for task in arguments.tasks:
        values = {
            "model": {"path": str(arguments.model), "dtype": "fp32"},
            "data": {"path": str(rows_of(task, arguments.work / task, arguments.data)[0]), "too_long": "drop"},
            "evaluate": {"held_out": str(rows_of(task, arguments.work / task, arguments.data)[1])},
            "train": {"batch_size": arguments.batch_size, "seed": arguments.seed},
            "system": {"threads": arguments.threads},
            "out": "unused",
        }
        base = arguments.model.resolve().parent.name
        name = f"{task}, base {base}, steps of {arguments.batch_size}, seed {arguments.seed}"
        content["runs"][name] = measured(prepare(configuration.load(values=values), Watcher()))
        arguments.out.write_text(json.dumps(content | surroundings(), indent=1) + "\n", encoding="utf-8")
    print(drift_table(content))


def measured(prepared: Prepared) -> dict[str, Any]:
    config, base = prepared.resolved.config, prepared.base
    rule, _ = default_learning_rate(base.hidden_size, str(base.model.config.model_type), "lora")
    steps, count = steps_of(prepared.resolved, prepared), len(FACTORS)
    subject = subject_of(base.model, attach(base, lanes=[Lane(config.lora, config.train.seed)] * count), False, "auto")
    capacity = max(LEAST_CAPACITY, prepared.capacity // count)
    loop = LaneLoop(
        subject,
        [LaneRun(f"{f:g}", prepared.rows.training, config.train, rule * f, steps) for f in FACTORS],
        capacity,
    )

    def losses(rows: int) -> list[float | None]:
        with subject.evaluating():
            held_out, engine = prepared.rows.held_out[:rows], subject.engine
            found = score_lanes(base.model, held_out, capacity, subject.device, count, engine=engine)
        return [scores.loss if math.isfinite(scores.loss) else None for scores in found]

    assert subject.adapter is not None
    ends = [round(steps * share) for share in SHARES]
    sums: dict[int, dict[str, Tensor]] = {end: {} for end in ends}
    early: dict[str, Any] = {}
    for step in range(1, max(ends) + 1):
        loop.train(step)
        state = subject.adapter.state()
        for end in ends:
            if end // 2 < step <= end:
                sums[end] = {name: value + sums[end].get(name, 0) for name, value in state.items()}
        if step in ends:
            early[str(step)] = {"weights": losses(EARLY)}
            kept = {name: value.clone() for name, value in state.items()}
            put(state, {name: value / (step - step // 2) for name, value in sums[step].items()})
            early[str(step)]["average"] = losses(EARLY)
            put(state, kept)
    loop.train(steps)
    found = {"rule": rule, "factors": FACTORS, "steps": steps, "early": early, "end": losses(HELD_OUT)}
    subject.adapter.detach()
    return found


def put(state: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        state[name].copy_(value)


def rows_of(task: str, folder: Path, data: Path) -> tuple[Path, Path]:
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    if paths[1].exists():
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    if task == "demo":
        return write_demo_data(folder, ROWS, HELD_OUT, 0)
    if task in TASKS:
        return write(dataclasses.replace(TASKS[task], rows=ROWS, held_out=HELD_OUT), data, folder)
    training, others = {"banking77": banking77, "snips": snips}[task](data / task)
    draw = random.Random(0)
    held_out = draw.sample(sorted(dict(others).items()), HELD_OUT)
    unseen = {prompt for prompt, _ in held_out}
    chosen = draw.sample([pair for pair in training if pair[0] not in unseen], ROWS)
    for path, pairs in zip(paths, (chosen, held_out), strict=True):
        path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs), encoding="utf-8")
    return paths


def banking77(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Question to intent (Casanueva et al. 2020, arXiv:2003.04807)."""

    def read(name: str) -> list[Pair]:
        with open(folder / name, encoding="utf-8", newline="") as file:
            return [(f"{row['text']}\n", row["category"].replace("_", " ")) for row in csv.DictReader(file)]

    return read("train.csv"), read("test.csv")


def snips(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Request to intent and slots (Coucke et al. 2018, arXiv:1805.10190)."""
    pairs = []
    for path in sorted(folder.glob("train_*_full.json")):
        for intent, rows in json.loads(decoded(path.read_bytes())).items():
            for parts in (row["data"] for row in rows):
                slots = [f"{p['entity'].replace('_', ' ')}: {p['text'].strip()}" for p in parts if "entity" in p]
                pairs.append(("".join(p["text"] for p in parts).strip() + "\n", f"{intent}; {'; '.join(slots)}"))
    random.Random(7).shuffle(pairs)
    return pairs[1000:], pairs[:1000]


def decoded(content: bytes) -> str:
    """Some of SNIPS' files are not in UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def drift_table(content: dict[str, Any]) -> str:
    heads = ["best rate, times the rule", *(f"after {share:.1%}" for share in SHARES), "average of weights", "end"]
    rows = []
    for name, run in content["runs"].items():
        early = [lowest(run["factors"], point["weights"]) for point in run["early"].values()]
        average = " ".join(f"{lowest(run['factors'], point['average']):.1f}" for point in run["early"].values())
        end = f"{lowest(run['factors'], run['end']):.1f}"
        rows.append([f"{name} ({run['steps']})", *(f"{rate:.1f}" for rate in early), average, end])
    return table(heads, rows)


def lowest(factors: Sequence[float], losses: Sequence[float | None]) -> float:
    """Where a parabola through the lowest loss and its neighbours over the logarithm of the rate is lowest."""
    points = [(math.log(factor), loss) for factor, loss in zip(factors, losses, strict=True) if loss is not None]
    at = min(range(len(points)), key=lambda number: points[number][1])
    if at in (0, len(points) - 1):
        return math.exp(points[at][0])
    (left, a), (middle, b), (right, c) = points[at - 1 : at + 2]
    up, down = (middle - left) * (b - c), (middle - right) * (b - a)
    return math.exp(middle - 0.5 * ((middle - left) * up - (middle - right) * down) / (up - down))


if __name__ == "__main__":
    main()
