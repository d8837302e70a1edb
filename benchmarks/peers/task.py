"""The task every peer of the engine benchmark is given: a model of random weights, rows, their order, a first adapter.

All of it is made once, in a cache folder, and read from there by each peer in a process of its own.
"""

import json
import resource
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SMOLLM2_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}

MAX_LENGTH = 1024  # TRL's default, beyond which it would cut rows; longer ones are left out for everyone


@dataclass(frozen=True)
class Task:
    """What a peer trains. `steps` optimiser steps of `batch_size` rows; the first `warm_up` of them are not counted.
    `layers` is 30 for SmolLM2's whole shape; `microbatch_tokens` is how much the bare matrix products take at a
    time."""

    folder: Path
    layers: int
    rank: int
    alpha: float
    lr: float
    batch_size: int
    steps: int
    warm_up: int
    threads: int
    microbatch_tokens: int

    @property
    def model(self) -> Path:
        return self.folder / f"model-{self.layers}"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.jsonl"

    @property
    def adapter(self) -> Path:
        return self.folder / f"adapter-{self.layers}-r{self.rank}-a{self.alpha:g}"

    @property
    def documents(self) -> Path:
        """`input_ids` and `labels` of every row, in the order of the steps."""
        return self.folder / f"documents-b{self.batch_size}.jsonl"

    def to_json(self) -> str:
        return json.dumps({key: str(value) if key == "folder" else value for key, value in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> "Task":
        values = json.loads(text)
        return cls(**values | {"folder": Path(values["folder"])})


def prepare(task: Task, tokenizer: Path, rows: Path, columns: tuple[str, str], most_rows: int) -> None:
    """Make what is not there yet."""
    if not (task.model / "config.json").exists():
        _make_model(task, tokenizer)
    if not task.rows.exists():
        _write_rows(rows, task.rows, columns, most_rows, tokenizer)
    if not task.documents.exists() or not task.adapter.exists():
        _tokenise_and_attach(task)


def _make_model(task: Task, tokenizer: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="</s>", pad_token="</s>")
    if len(backend) > SMOLLM2_135M["vocab_size"]:
        raise SystemExit(f"{tokenizer} has {len(backend):,} tokens; the model has {SMOLLM2_135M['vocab_size']:,}.")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(**SMOLLM2_135M, num_hidden_layers=task.layers, eos_token_id=backend.eos_token_id)
    )
    model.save_pretrained(task.model)
    backend.save_pretrained(task.model)


def _write_rows(source: Path, target: Path, columns: tuple[str, str], most: int, tokenizer: Path) -> None:
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(tokenizer))
    with open(source, encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(most), strict=False)]
    pairs = [{"prompt": f"{row[columns[0]]}\n", "completion": row[columns[1]]} for row in rows]
    room = MAX_LENGTH - 2  # for the tokens that begin and end a row
    short = [pair for pair in pairs if len(tokens.encode(pair["prompt"] + pair["completion"]).ids) <= room]
    target.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in short), encoding="utf-8")


def _tokenise_and_attach(task: Task) -> None:
    """Lorica's own tokens, order and first adapter, for everyone: what is compared is the engine."""
    from lorica import attach, load
    from lorica.config import DataConfig
    from lorica.data import read_examples, step_rows

    base = load(task.model, dtype="fp32", device="cpu")
    read = read_examples(DataConfig(path=str(task.rows)), base.tokenizer, MAX_LENGTH, sorted(base.stop_ids)).examples
    steps = len(read) // task.batch_size
    chosen = [read[row] for step in range(steps) for row in step_rows(len(read), task.batch_size, step, 0)]
    with open(task.documents, "w", encoding="utf-8") as file:
        for example in chosen:
            supervised = zip(example.input_ids, example.weights, strict=True)
            labels = [token if weight else -100 for token, weight in supervised]
            file.write(json.dumps({"input_ids": example.input_ids, "labels": labels}) + "\n")
    task.adapter.mkdir(exist_ok=True)
    attach(base, r=task.rank, alpha=task.alpha, seed=0).save(task.adapter)


def documents(task: Task) -> list[dict[str, list[int]]]:
    """The rows of all steps, in order."""
    with open(task.documents, encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(task.steps * task.batch_size), strict=False)]


def report(
    losses: list[float], seconds: list[float], cpu_seconds: list[float], versions: dict[str, str], **more: Any
) -> None:
    """What a peer prints, last: the loss of every step, its seconds, those its process computed for, and the most
    memory that its process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told: dict[str, Any] = {
        "losses": losses,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_rss_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "versions": versions,
    }
    print(json.dumps(told | more), flush=True)


def differences(values: list[float]) -> list[float]:
    """How much each is more than the one before."""
    return [after - before for before, after in pairwise(values)]
