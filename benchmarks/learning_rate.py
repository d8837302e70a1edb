"""`train.lr: auto` against the best of a grid of eight learning rates, on three tasks over the base in the package.

    python benchmarks/learning_rate.py --data FOLDER [--tasks demo e2e scan] [--page docs/results.md]

FOLDER holds e2e_nlg/, scan/ and gsm8k/ as in benchmarks/quality/run.py; the demo's own task is made on the spot. The
grid goes from an eighth of the rule of the width to sixteen times it, each rate twice the one before, all trained to
the end side by side. A task that is finished is not run again.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import lorica
from lorica.config import default_learning_rate
from lorica.demo import BASE
from lorica.demo.task import write_demo_data
from lorica.sweeping import sweep

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "quality")]

from machine import surroundings  # noqa: E402  (a folder of scripts, not a package)
from tables import table, write_section  # noqa: E402
from tasks import TASKS, write  # noqa: E402

FACTORS = [2.0**power for power in range(-3, 5)]
BATCH_SIZE, HELD_OUT = 2, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", choices=["demo", *TASKS], default=["demo", "e2e", "scan"])
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/learning_rate"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learning_rate.json")
    parser.add_argument("--page", type=Path, help="Markdown page whose section between the learning-rate marks it is")
    arguments = parser.parse_args()
    content = surroundings() | {"rows": arguments.rows, "tasks": {}}
    if arguments.out.exists():
        content["tasks"] = json.loads(arguments.out.read_text(encoding="utf-8"))["tasks"]
    for task in arguments.tasks:
        content["tasks"][task] = measured(task, arguments)
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = learning_rate_table(content)
    print(text)
    if arguments.page:
        write_section(arguments.page, "learning-rate", text)


def measured(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.work / task
    train, held_out = rows_of(task, folder, arguments)
    values = {
        "model": {"path": str(BASE), "dtype": "fp32"},
        "data": {"path": str(train), "too_long": "drop"},
        "evaluate": {"held_out": str(held_out), "samples": 0, "forgetting": None},
        "system": {"threads": arguments.threads},
    }
    rule, _ = default_learning_rate(json.loads((BASE / "config.json").read_text())["hidden_size"], "llama", "lora")
    grid = in_folder(folder / "grid", "sweep.json") or sweep(
        overrides=["train.lr=" + ",".join(f"{rule * factor:.4g}" for factor in FACTORS)],
        out=folder / "grid", share=1, **values, train={"batch_size": BATCH_SIZE},
    ).to_dict()  # fmt: skip
    if not (folder / "auto" / "report.json").exists():
        lorica.train(**values, train={"batch_size": BATCH_SIZE, "lr": "auto"}, out=str(folder / "auto"))
    report = in_folder(folder / "auto", "report.json")
    assert report is not None
    losses = {float(row["settings"]["train.lr"]): row["held_out_loss"] for row in grid["rows"]}
    return {
        "rule": rule,
        "steps": report["steps"],
        "grid": dict(sorted(losses.items())),
        "auto": report["learning_rate"] | {"final_loss": report["after"]["loss"]},
        "seconds": report["measured"]["seconds"],
    }


def in_folder(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def rows_of(task: str, folder: Path, arguments: argparse.Namespace) -> tuple[Path, Path]:
    if folder.exists() and list(folder.glob("*.jsonl")):
        return folder / "train.jsonl", folder / "held_out.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    if task == "demo":
        return write_demo_data(folder, arguments.rows, HELD_OUT, 0)
    return write(dataclasses.replace(TASKS[task], rows=arguments.rows, held_out=HELD_OUT), arguments.data, folder)


def learning_rate_table(content: dict[str, Any]) -> str:
    heads = ["task", "steps", "rule", "its loss", "best of the grid", "its loss", "auto", "its loss", "from the best"]
    rows = []
    for name, task in content["tasks"].items():
        grid = {float(rate): loss for rate, loss in task["grid"].items() if loss is not None}
        best = min(grid, key=lambda rate: grid[rate])
        near = min(grid, key=lambda rate: abs(rate - task["rule"]))
        auto = task["auto"]
        cells = [name, f"{task['steps']}", f"{task['rule']:.2g}", f"{grid[near]:.4f}", f"{best:.2g}"]
        cells += [f"{grid[best]:.4f}", f"{auto['chosen']:.2g}", f"{auto['final_loss']:.4f}"]
        cells += [f"{100 * (auto['final_loss'] / grid[best] - 1):+.1f} %", f"{auto['share_of_tokens']:.1%}"]
        rows.append([*cells, f"{auto['seconds'] / task['seconds']:.0%}"])
    told = f"{content['date']}, commit {content['commit']}, {content['cores']} cores of {content['processor']}."
    return f"{told}\n\n{table([*heads, 'of the tokens', 'of the time'], rows)}"


if __name__ == "__main__":
    main()
