"""`train.lr: auto` against the best of a grid of eight learning rates, over the base in the package.

    python benchmarks/learning_rate.py --data FOLDER [--tasks demo e2e scan gsm8k] [--seeds 0 1] [--page PAGE.md]

FOLDER holds e2e_nlg/, scan/ and gsm8k/ as in benchmarks/quality/run.py; the demo's own task is made on the spot. The
grid goes from an eighth of the rule of the width to sixteen times it, each rate twice the one before, all trained to
the end side by side. Stopped, it goes on from where it was; runs are added to those that the result holds.

Intervals are of the held-out rows alone. Where auto keeps the rule, its run and the grid's are the same up to rounding:
how far they lie apart shows how much is chance.
"""

import argparse
import dataclasses
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import lorica
from lorica.config import default_learning_rate
from lorica.demo import BASE
from lorica.demo.task import write_demo_data
from lorica.evaluation.bootstrap import paired_interval
from lorica.evaluation.scores import Scores
from lorica.sweeping import sweep

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "quality")]

from machine import surroundings  # noqa: E402  (a folder of scripts, not a package)
from tables import table, write_section  # noqa: E402
from tasks import TASKS, write  # noqa: E402

FACTORS = [2.0**power for power in range(-3, 5)]
BATCH_SIZE, HELD_OUT = 2, 400
ROWS = {"gsm8k": 400}  # which are three times as long; 800 of the others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", choices=["demo", *TASKS], default=["demo", "e2e", "scan", "gsm8k"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/learning_rate"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learning_rate.json")
    parser.add_argument("--page", type=Path, help="Markdown page whose section between the learning-rate marks it is")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    content = surroundings() | {"held_out": HELD_OUT, "runs": earlier.get("runs", {})}
    for task, seed in product(arguments.tasks, arguments.seeds):
        content["runs"][f"{task}, seed {seed}"] = measured(task, seed, arguments)
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = learning_rate_table(content)
    print(text)
    if arguments.page:
        write_section(arguments.page, "learning-rate", text)


def measured(task: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    train, held_out = rows_of(task, arguments.work / task, arguments.data)
    folder = arguments.work / task / f"seed-{seed}"
    values = {
        "model": {"path": str(BASE), "dtype": "fp32"},
        "data": {"path": str(train), "too_long": "drop"},
        "evaluate": {"held_out": str(held_out), "samples": 0, "forgetting": None},
        "system": {"threads": arguments.threads},
    }
    settings = {"batch_size": BATCH_SIZE, "seed": seed}
    rule, _ = default_learning_rate(json.loads((BASE / "config.json").read_text())["hidden_size"], "llama", "lora")
    grid = in_folder(folder / "grid", "sweep.json")
    if grid is None and (folder / "grid" / "grid.json").exists():
        grid = sweep(resume=folder / "grid").to_dict()
    grid = grid or sweep(
        overrides=["train.lr=" + ",".join(f"{rule * factor:.4g}" for factor in FACTORS)],
        out=folder / "grid", share=1, **values, train=settings,
    ).to_dict()  # fmt: skip
    if (folder / "auto" / "config.yaml").exists() and not (folder / "auto" / "report.json").exists():
        lorica.train(resume=folder / "auto")
    elif not (folder / "auto").exists():
        lorica.train(**values, train=settings | {"lr": "auto"}, out=str(folder / "auto"))
    report = in_folder(folder / "auto", "report.json")
    assert report is not None
    rows = {float(row["settings"]["train.lr"]): row for row in grid["rows"]}
    scores = {
        rate: scores_of(folder / "grid" / "trials" / row["name"], report["steps"])
        for rate, row in rows.items()
        if row["failed"] is None
    }
    best = min(scores, key=lambda rate: scores[rate].loss)
    nearest = min(scores, key=lambda rate: abs(rate - rule))
    auto = Scores.from_dict((in_folder(folder / "auto", "after.json") or {})["scores"])
    return {
        "steps": report["steps"],
        "grid": {str(rate): row["held_out_loss"] for rate, row in sorted(rows.items())},
        "best": {"rate": best, "loss": scores[best].loss},
        "rule": {"rate": rule} | above(scores[best], scores[nearest]),
        "auto": report["learning_rate"] | above(scores[best], auto),
        "seconds": report["measured"]["seconds"],
    }


def scores_of(trial: Path, step: int) -> Scores:
    return Scores.from_dict((in_folder(trial, "scores.json") or {})["scores"][str(step)])


def above(best: Scores, other: Scores) -> dict[str, Any]:
    """The loss and how far it lies above the best one, as a share of that, with its 95 % interval."""
    found = paired_interval(best.loss_statistics, other.loss_statistics)
    assert found.difference is not None and found.low is not None and found.high is not None
    return {
        "final_loss": other.loss,
        "from_best": [value / best.loss for value in (found.difference, found.low, found.high)],
    }


def in_folder(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def rows_of(task: str, folder: Path, data: Path) -> tuple[Path, Path]:
    if (folder / "held_out.jsonl").exists():
        return folder / "train.jsonl", folder / "held_out.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ROWS.get(task, 800)
    if task == "demo":
        return write_demo_data(folder, rows, HELD_OUT, 0)
    return write(dataclasses.replace(TASKS[task], rows=rows, held_out=HELD_OUT), data, folder)


def learning_rate_table(content: dict[str, Any]) -> str:
    heads = [
        "",
        "steps",
        "best of the grid",
        "its loss",
        "rule",
        "from the best",
        "auto",
        "from the best",
        "of the tokens",
    ]
    rows = []
    for name, run in content["runs"].items():
        rule, auto = run["rule"], run["auto"]
        cells = [name, f"{run['steps']}", f"{run['best']['rate']:.2g}", f"{run['best']['loss']:.4f}"]
        cells += [f"{rule['rate']:.2g}", told(rule["from_best"]), f"{auto['chosen']:.2g}", told(auto["from_best"])]
        rows.append([*cells, f"{auto['share_of_tokens']:.1%}"])
    where = f"{content['date']}, commit {content['commit']}, {content['cores']} cores of {content['processor']}."
    return f"{where}\n\n{table(heads, rows)}"


def told(share: list[float]) -> str:
    difference, low, high = (100 * value for value in share)
    return f"{difference:+.1f} % ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
