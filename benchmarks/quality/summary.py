"""Numbers and tables of finished runs."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from methods import FULL, PEFT

from lorica.comparing.runs import Finished
from lorica.comparing.table import share_of_improvement

Best = tuple[dict[float, Finished], list[Finished]]
TITLES = {
    "e2e": "E2E NLG, meaning representation to sentence",
    "scan": "SCAN, command to actions (simple split)",
    "gsm8k": "GSM8K, word problem to worked answer",
    "e2e_longer": "E2E NLG, three times the rows",
}


def summarise(found: Mapping[str, Best], step_bytes: Mapping[str, int | None]) -> dict[str, dict[str, Any]]:
    """By method: at its best learning rate, over the seeds."""
    full = found[FULL][1] if FULL in found else None
    return {
        name: _row(name, tried, runs, full) | {"step_bytes": step_bytes[name]} for name, (tried, runs) in found.items()
    }


def _row(
    name: str, tried: dict[float, Finished], runs: Sequence[Finished], full: Sequence[Finished] | None
) -> dict[str, Any]:
    losses = [run.loss for run in runs]
    forgetting = [run.report["forgetting"]["differences"]["loss"] for run in runs if run.report["forgetting"]]
    metrics = next((run.report["after"]["metrics"] for run in runs if run.report["after"]["metrics"]), {})
    return {
        "lr": runs[0].plan.lr,
        "loss_by_lr": {f"{lr:.3g}": run.loss for lr, run in tried.items()},
        "seeds": len(runs),
        "base_loss": runs[0].report["before"]["loss"],
        "loss": fmean(losses),
        "loss_by_seed": losses,
        "share_of_full": None if full is None or name == FULL else share_of_improvement(runs, full),
        "metrics": metrics,
        "forgetting": fmean(forgetting) if forgetting else None,
        "seconds": fmean(run.report["measured"]["seconds"] for run in runs),
        "bytes_stored": sum(path.stat().st_size for path in runs[0].folder.glob("*/*.safetensors")),
    }


def tables(result: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {result['versions'][name]}" for name in ("torch", "transformers", "peft") if result["versions"][name]
    )
    first = f"{result['date']}, commit {result['commit']}, {result['processor']}, {versions}."
    return "\n\n".join([first, *(task_table(name, task) for name, task in result["tasks"].items())])


def task_table(name: str, task: dict[str, Any]) -> str:
    base = next(iter(task["methods"].values()))["base_loss"]
    head = (
        f"**{TITLES[name]}**: {task['rows']:,} training rows once, in steps of {task['batch_size']}; "
        f"{task['held_out']} held-out prompts; the base's loss is {base:.3f}."
    )
    metric = {"bleu": "BLEU", "exact_match": "exact match"}.get(task["metric"] or "")
    columns = ["method", "learning rate", "held-out loss (seeds)", "of full fine-tuning's fall in loss (95 %)"]
    columns += [metric] if metric else []
    columns += ["general text's loss", "step's memory", "stored", "seconds"]
    rows = [_cells(method, row, task, bool(metric)) for method, row in task["methods"].items()]
    lines = [columns, ["---"] * len(columns), *rows]
    return head + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(method: str, row: dict[str, Any], task: dict[str, Any], has_metric: bool) -> list[str]:
    full = task["methods"].get(FULL)
    share = row["share_of_full"]
    kept = "" if share is None or share["share"] is None else "{share:.1%} ({low:.1%} … {high:.1%})".format(**share)
    memory = ""
    if row["step_bytes"] is not None:
        memory = f"{row['step_bytes'] / 1e6:.0f} MB"
        if full is not None and method != FULL:
            memory += f" ({row['step_bytes'] / full['step_bytes']:.0%})"
    value = row["metrics"].get(task["metric"] or "")
    shown = "" if value is None else f"{value:.1%}" if task["metric"] == "exact_match" else f"{value:.1f}"
    return [
        method,
        f"{row['lr']:.2g}",
        f"{row['loss']:.4f} ({min(row['loss_by_seed']):.4f} … {max(row['loss_by_seed']):.4f})",
        kept,
        *([shown] if has_metric else []),
        "" if row["forgetting"] is None else f"{row['forgetting']:+.2f}",
        memory,
        "" if method == PEFT else f"{row['bytes_stored'] / 1e6:.1f} MB",
        f"{row['seconds']:.0f}",
    ]
