"""Lorica and its peers on one task, in alternation, on this machine's processor: speed, memory, and the same losses.

    python benchmarks/engine.py --tokenizer TOKENIZER.json --rows ROWS.jsonl [--columns prompt answer] [--quick]

A model of SmolLM2-135M's shape with random weights, LoRA r 16 on all linear layers with alpha 32. Every peer is a
process of its own; all of them run in turn, `--repeats` times, and the first `--warm-up` steps of a process are not
counted. Beside them the bare matrix products of the same steps (`peers/products.py`), and time and memory against the
length of a pack (`growth.py`). Results go to a JSON file, and with `--page` as tables into a Markdown page.

Defaults take about 12 minutes on two quiet cores; `--quick` about two, to see that everything runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import surroundings
from tables import engine_tables, write_section

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from task import Task, documents, prepare  # noqa: E402  (a folder of scripts, not a package)

# Name: the script and its arguments before the task's. Losses of `like` are to be the same.
PEERS: dict[str, list[str]] = {
    "Lorica": ["lorica_run.py", "lora", "fp32"],
    "Lorica, bf16 base": ["lorica_run.py", "lora", "bf16"],
    "PEFT + TRL, default": ["trl_sft.py", "default"],
    "PEFT + TRL, tuned": ["trl_sft.py", "tuned"],
    "all weights: Lorica": ["lorica_run.py", "full", "fp32"],
    "all weights: TRL": ["trl_sft.py", "full"],
    "matrix products, fp32": ["products.py", "fp32"],
    "matrix products, bf16": ["products.py", "bf16"],
}
# Pairs that compute the same function in fp32, in another order.
SAME_LOSSES = [("Lorica", "PEFT + TRL, tuned"), ("all weights: Lorica", "all weights: TRL")]
PARITY = 1e-3


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            arguments.folder or Path(folder),
            layers=arguments.layers,
            rank=16,
            alpha=32.0,
            lr=1e-3,
            batch_size=arguments.batch_size,
            steps=arguments.warm_up + arguments.steps,
            warm_up=arguments.warm_up,
            threads=arguments.threads,
            microbatch_tokens=arguments.microbatch_tokens,
        )
        prepare(task, arguments.tokenizer, arguments.rows, tuple(arguments.columns), most_rows=arguments.most_rows)
        result = surroundings() | {"task": described(task)}
        result["peers"] = alternate(task, arguments.peers or list(PEERS), arguments.repeats)
        result["growth"] = growth(task, arguments.growth_repeats)
    result["parity"] = parity(result["peers"])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    tables = engine_tables(result)
    print(tables)
    if arguments.page:
        write_section(arguments.page, "engine", tables)
    apart = {pair: difference for pair, difference in result["parity"].items() if difference > PARITY}
    if apart:
        raise SystemExit(f"Losses differ by more than {PARITY}: {apart}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="a tokenizer.json of at most 49,152 tokens, or more"
    )
    parser.add_argument("--rows", type=Path, required=True, help="JSON Lines")
    parser.add_argument("--columns", nargs=2, default=["prompt", "answer"], metavar=("PROMPT", "ANSWER"))
    parser.add_argument("--folder", type=Path, help="keeps the model and the rows for the next time")
    parser.add_argument("--layers", type=int, default=30, help="of the model; SmolLM2-135M has 30")
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps that are counted")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before them")
    parser.add_argument("--batch-size", type=int, default=8, help="rows a step; 8 is TRL's default")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--microbatch-tokens", type=int, default=1024, help="of the bare matrix products")
    parser.add_argument("--most-rows", type=int, default=400)
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), help="only these")
    parser.add_argument("--growth-repeats", type=int, default=3, help="of time against length; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "engine.json")
    parser.add_argument("--page", type=Path, help="Markdown page whose section between the engine marks is replaced")
    parser.add_argument("--quick", action="store_true", help="two layers, two rows a step, once")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.layers, arguments.batch_size, arguments.steps, arguments.repeats = 2, 2, 1, 1
        arguments.growth_repeats = 1
    return arguments


def described(task: Task) -> dict[str, Any]:
    rows = documents(task)
    counted = rows[task.warm_up * task.batch_size :]
    supervised = sum(label != -100 for row in counted for label in row["labels"])
    tokens = sum(len(row["input_ids"]) for row in counted)
    values = json.loads(task.to_json())
    del values["folder"]
    return values | {"counted_rows": len(counted), "counted_tokens": tokens, "supervised_tokens": supervised}


def alternate(task: Task, names: list[str], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Every repeat runs all peers, beginning with another each time: a machine's mood falls on all of them alike."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            script, *arguments = PEERS[name]
            runs[name].append(json.loads(run_script([f"peers/{script}", *arguments, task.to_json()], task)))
            steps = runs[name][-1]["seconds"][task.warm_up :]
            print(f"{name}: {sum(steps) / len(steps):.1f} s a step", file=sys.stderr, flush=True)
    return runs


def growth(task: Task, repeats: int) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    if repeats:
        points = json.loads(run_script(["growth.py", task.to_json(), str(repeats)], task))
    return points


def run_script(command: list[str], task: Task) -> str:
    """The last line that a script prints, in a process of its own without a network."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(task.threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "XDG_CACHE_HOME": str(task.folder / "cache"),
    }
    environment["HF_HOME"] = environment["HF_DATASETS_CACHE"] = str(task.folder / "cache")
    script, *arguments = command
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(arguments[:-1])} failed:\n{done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def parity(peers: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The largest difference of any step's loss between peers that compute the same."""
    found = {}
    for ours, theirs in SAME_LOSSES:
        if peers.get(ours) and peers.get(theirs):
            pairs = zip(peers[ours][0]["losses"], peers[theirs][0]["losses"], strict=True)
            found[f"{ours} / {theirs}"] = max(abs(a - b) for a, b in pairs)
    return found


if __name__ == "__main__":
    main()
