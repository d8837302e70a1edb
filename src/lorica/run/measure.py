"""Measure a model as it stands, outside a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorica.config import DataConfig
from lorica.data import Example, read_examples
from lorica.evaluation.evaluation import Evaluation
from lorica.evaluation.evaluation import evaluate as evaluate_examples
from lorica.models import Base
from lorica.run.prepare import tokens_per_microbatch
from lorica.run.rows import DEFAULT_LENGTH


def evaluate(
    base: Base, data: str | Path | Sequence[Example], *, max_length: int | None = None, **options: Any
) -> Evaluation:
    """Loss (nats a supervised token), token accuracy, task metrics and samples of `base` on rows.

    `data` is a file of rows, or examples. The model is measured as it stands: with its adapter if one is attached,
    without inside `adapter.disable()`. `options` are those of `lorica.evaluation.evaluation.evaluate`: `metrics`,
    `max_new_tokens`, `generate_rows`, `samples`, `forgetting`. Raises ValueError for rows that cannot be read, and an
    unknown metric.
    """
    length = max_length or base.longest or DEFAULT_LENGTH
    if isinstance(data, str | Path):
        data = read_examples(DataConfig(path=str(data)), base.tokenizer, length, sorted(base.stop_ids)).examples
    return evaluate_examples(
        base.model,
        base.tokenizer,
        data,
        capacity=tokens_per_microbatch(base)[0],
        device=base.device,
        max_length=min(512, length),
        stop_ids=sorted(base.stop_ids),
        **options,
    )
