"""E2E NLG (Novikova et al. 2017, the task of the LoRA paper's table 3) with LoRA and with full fine-tuning.

    python benchmarks/e2e_nlg.py --data FOLDER_WITH_trainset.csv --base stories260K=PATH --base NAME=PATH

Each method is trained at the default learning rate, a third and three times of it, on the same rows in the same order,
and measured on the same distinct test inputs with all their references. Every run is a `lorica train` process of its
own, so that its peak memory is its own. Writes one JSON with everything and prints a Markdown table. A run that is
finished is not run again.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorica.config import default_learning_rate

FACTORS = (1 / 3, 1.0, 3.0)
METHODS = ("lora", "full")


def write_rows(source: Path, target: Path, inputs: int | None, rows: int | None, seed: int = 0) -> None:
    """`rows` random rows of a CSV with columns mr and ref, or all references of `inputs` random distinct inputs."""
    with open(source, encoding="utf-8-sig", newline="") as file:
        pairs = [(row["mr"], row["ref"]) for row in csv.DictReader(file)]
    draw = random.Random(seed)
    if inputs is not None:
        chosen = set(draw.sample(sorted({mr for mr, _ in pairs}), inputs))
        pairs = [pair for pair in pairs if pair[0] in chosen]
    else:
        pairs = draw.sample(pairs, rows or len(pairs))
    lines = [json.dumps({"prompt": f"{mr}\n", "completion": ref}, ensure_ascii=False) for mr, ref in pairs]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(base: Path, method: str, factor: float, folder: Path, epochs: float) -> dict[str, Any]:
    """One training run; its figures."""
    config = json.loads((base / "config.json").read_text())
    lr = factor * default_learning_rate(config["hidden_size"], config["model_type"], method)[0]  # type: ignore[arg-type]
    out = folder / f"{method}-{factor:.2f}"
    if not (out / "report.json").exists():
        settings = [
            f"model.path={base}",
            "model.dtype=fp32",
            f"data.path={folder.parent / 'train.jsonl'}",
            "data.too_long=drop",
            f"evaluate.held_out={folder.parent / 'test.jsonl'}",
            "evaluate.metric=bleu",
            "evaluate.max_new_tokens=160",
            f"method={method}",
            f"train.lr={lr}",
            f"train.epochs={epochs}",
        ]
        command = [sys.executable, "-m", "lorica", "train", "--out", str(out), "--json", *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = json.loads((out / "report.json").read_text())
    measured, before, after = report["measured"], report["before"], report["after"]
    return {
        "method": method,
        "lr": lr,
        "default_lr": factor == 1.0,
        "trainable_parameters": report["trainable_parameters"],
        "loss": [before["loss"], after["loss"]],
        "loss_interval": report["intervals"]["loss"],
        "bleu": [before["metrics"]["bleu"], after["metrics"]["bleu"]],
        "bleu_interval": report["intervals"]["bleu"],
        "forgetting": report["forgetting"]["differences"]["loss"],
        "seconds": measured["seconds"],
        "peak_memory_bytes": measured["peak_memory_bytes"],
        "receipt": {key: report["receipt"][key] for key in ("base", "data", "versions", "machine", "rows")},
    }


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row a base and method, at the learning rate with the lowest loss; the default rate's figures beside it."""
    columns = (
        "base",
        "method",
        "trained parameters",
        "loss before → after",
        "BLEU before → after (95 % of the change)",
        "learning rate",
        "at the default rate: loss, BLEU",
        "seconds",
        "peak MB",
    )
    lines = [_row(columns), _row(["---"] * len(columns))]
    for name, runs in results.items():
        for method in METHODS:
            mine = [result for result in runs if result["method"] == method]
            best = min(mine, key=lambda result: result["loss"][1])
            default = next(result for result in mine if result["default_lr"])
            (loss_before, loss_after), (bleu_before, bleu_after) = best["loss"], best["bleu"]
            low, high = best["bleu_interval"]
            cells = [
                name,
                method,
                f"{best['trainable_parameters']:,}",
                f"{loss_before:.3f} → {loss_after:.3f}",
                f"{bleu_before:.1f} → {bleu_after:.1f} ({low:+.1f} … {high:+.1f})",
                f"{best['lr']:.2g}",
                f"{default['loss'][1]:.3f}, {default['bleu'][1]:.1f}",
                f"{best['seconds']:.0f}",
                f"{best['peak_memory_bytes'] / 1e6:.0f}",
            ]
            lines.append(_row(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with trainset.csv and testset_w_refs.csv")
    parser.add_argument("--base", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--out", type=Path, default=Path("runs/e2e_nlg"))
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=1.0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.data / "trainset.csv", arguments.out / "train.jsonl", None, arguments.rows)
    write_rows(arguments.data / "testset_w_refs.csv", arguments.out / "test.jsonl", arguments.inputs, None)
    bases = dict(pair.split("=", 1) for pair in arguments.base)
    results = {
        name: [
            run(Path(path), method, factor, arguments.out / name, arguments.epochs)
            for method in METHODS
            for factor in FACTORS
        ]
        for name, path in bases.items()
    }
    content = {"command": sys.argv, "rows": arguments.rows, "inputs": arguments.inputs, "results": results}
    (arguments.out / "results.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
