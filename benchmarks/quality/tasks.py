"""Rows of the tasks from their public releases: a training file, and a held-out file of distinct prompts."""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Pair = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """`rows` to train on, once, in steps of `batch_size`; `metric` of generated answers, or None."""

    name: str
    rows: int
    held_out: int
    batch_size: int
    metric: str | None
    max_new_tokens: int = 128


GSM8K_CHARACTERS = 900  # longer ones would not fit in the base's 512 positions

TASKS = {
    task.name: task
    for task in (
        Task("e2e", 1_600, 200, 16, "bleu", 96),
        Task("scan", 2_400, 200, 16, "exact_match", 192),
        Task("gsm8k", 800, 150, 8, None),
        Task("e2e_longer", 4_800, 200, 16, None),
    )
}


def write(task: Task, source: Path, folder: Path) -> tuple[Path, Path]:
    """`train.jsonl` and `held_out.jsonl` in `folder`, drawn with a fixed seed; no prompt is in both."""
    pairs = {"e2e": _e2e, "e2e_longer": _e2e, "scan": _scan, "gsm8k": _gsm8k}[task.name](source)
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    draw = random.Random(0)
    held_out = _distinct(draw.sample(pairs[1], len(pairs[1])), task.held_out)
    unseen = {prompt for prompt, _ in held_out}
    training = draw.sample([pair for pair in pairs[0] if pair[0] not in unseen], task.rows)
    for path, chosen in zip(paths, (training, held_out), strict=True):
        lines = [json.dumps({"prompt": prompt, "completion": text}, ensure_ascii=False) for prompt, text in chosen]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def _distinct(pairs: list[Pair], count: int) -> list[Pair]:
    return list(dict(reversed(pairs)).items())[-count:][::-1]


def _e2e(source: Path) -> tuple[list[Pair], list[Pair]]:
    """Meaning representation to sentence (Novikova et al. 2017, arXiv:1706.09254)."""

    def read(name: str) -> list[Pair]:
        with open(source / "e2e_nlg" / name, encoding="utf-8-sig", newline="") as file:
            return [(f"{row['mr']}\n", row["ref"]) for row in csv.DictReader(file)]

    return read("trainset.csv"), read("testset_w_refs.csv")


def _scan(source: Path) -> tuple[list[Pair], list[Pair]]:
    """Command to actions, simple split (Lake and Baroni 2018, arXiv:1711.00350)."""

    def read(name: str) -> Iterator[Pair]:
        for line in (source / "scan" / name).read_text(encoding="utf-8").splitlines():
            command, _, actions = line.removeprefix("IN: ").partition(" OUT: ")
            yield f"{command}\n", actions.replace("I_", "").replace("_", " ").lower()

    return list(read("tasks_train_simple.txt")), list(read("tasks_test_simple.txt"))


def _gsm8k(source: Path) -> tuple[list[Pair], list[Pair]]:
    """Word problem to worked answer (Cobbe et al. 2021, arXiv:2110.14168), for its loss alone."""

    def read(name: str) -> Iterator[Pair]:
        for line in (source / "gsm8k" / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if len(row["question"]) + len(row["answer"]) <= GSM8K_CHARACTERS:
                yield f"{row['question']}\n", row["answer"]

    return list(read("train.jsonl")), list(read("test.jsonl"))
