"""Made-up evaluations with known numbers, for tests of the report."""

from typing import Any

import numpy as np

from lorica.evaluation.completions import Answer
from lorica.evaluation.evaluation import Evaluation
from lorica.evaluation.forgetting import GeneralLoss
from lorica.evaluation.metrics import measure
from lorica.evaluation.scores import Scores

FACTS: dict[str, Any] = {
    "run": "runs/tickets",
    "model": "tiny",
    "data": ["a.jsonl", "b.jsonl"],
    "trainable_parameters": 4_096,
    "total_parameters": 1_000_000,
    "steps": 40,
    "measured": {"seconds": 75.4, "tokens_per_second": 1234.5, "peak_memory_bytes": 3 * 1024**3},
    "plan": {"peak_bytes": 2 * 1024**3},
    "findings": [{"name": "duplicate", "rows": ["a.jsonl:3", "a.jsonl:9"], "message": "Kept, on one side."}],
    "settings": {
        "train.lr": {"value": 0.001, "origin": "config.yaml:4"},
        "train.seed": {"value": 0, "origin": "default"},
    },
    "receipt": {"base": {"weights": "sha256:ab12"}, "files": [{"path": "a.jsonl"}]},
}


def scores(losses: list[float], tokens: int = 5) -> Scores:
    """One row a loss (nats per token); hits grow as the loss falls."""
    count = np.full(len(losses), float(tokens))
    per_token = np.array(losses)
    return Scores(
        sources=[f"a.jsonl:{number + 1}" for number in range(len(losses))],
        clusters=np.arange(len(losses)),
        loss_sums=per_token * count,
        weights=count,
        correct=np.nan_to_num(np.exp(-per_token)) * count,
        tokens=count.astype(np.int64),
    )


def side(
    losses: list[float],
    predictions: list[str] | None = None,
    general: list[float] | None = None,
    prompt: str = "say ",
    notes: list[str] | None = None,
) -> Evaluation:
    """An evaluation with these losses a row, answers whose references are "word 0", "word 1", ..., passage losses."""
    answers = [
        Answer(f"a.jsonl:{number + 1}", f"{prompt}{number}", [f"word {number}"], text, True)
        for number, text in enumerate(predictions or [])
    ]
    passages = scores(general or [])
    return Evaluation(
        scores=scores(losses) if losses else None,
        answers=answers,
        metrics=[measure("exact_match", answers)] if answers else [],
        general=GeneralLoss("bundled English text", passages, passages.weights * 4) if general else None,
        notes=notes or [],
    )
