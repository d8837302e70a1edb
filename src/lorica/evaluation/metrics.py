"""Task metrics on generated text: exact match, BLEU and chrF by sacrebleu, or the user's own function.

A metric yields one row of statistics a question; scores are functions of their sums. For BLEU (Papineni et al. 2002;
Post 2018) and chrF (Popović 2015) these are sacrebleu's own sufficient statistics, so the corpus score of any subset or
resample of the questions is exactly sacrebleu's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import zip_longest
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from lorica.evaluation.bootstrap import ScoreFunction, ratio
from lorica.evaluation.completions import Answer
from lorica.evaluation.user_metric import apply_function, load_function

CORPUS_METRICS: dict[str, Callable[[], Any]] = {"bleu": BLEU, "chrf": CHRF}
METRICS = ("exact_match", *CORPUS_METRICS)


@dataclass(frozen=True)
class MetricResult:
    """Statistics (questions, k) float64 of one metric; `signature` is sacrebleu's, which makes it repeatable."""

    name: str
    statistics: np.ndarray
    signature: str | None = None

    @property
    def score(self) -> float:
        """exact_match in [0, 1]; bleu and chrf in [0, 100]; a user's function: its mean."""
        return float(score_function(self.name)(self.statistics.sum(0)))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "statistics": self.statistics.tolist(), "signature": self.signature}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MetricResult:
        return cls(values["name"], np.array(values["statistics"], dtype=np.float64), values["signature"])


def check_metric(name: str) -> None:
    """Raises ValueError unless the metric can be used: call it before a run, not after."""
    if ":" in name:
        load_function(name)
    elif name not in METRICS:
        near = get_close_matches(name, METRICS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Unknown metric {name!r}.{hint} Known: {', '.join(METRICS)}, or your own Python function as "
            f'"module:function".'
        )


def measure(name: str, answers: Sequence[Answer]) -> MetricResult:
    """One metric over the answers. Where a question has several references the best one counts."""
    check_metric(name)
    if name in CORPUS_METRICS:
        return _corpus_metric(name, answers)
    values = apply_function(name, answers) if ":" in name else [_exact_match(answer) for answer in answers]
    return MetricResult(name, np.stack([np.array(values, dtype=np.float64), np.ones(len(values))], axis=1))


def score_function(name: str) -> ScoreFunction:
    """Summed statistics (..., k) -> scores (...)."""
    if name not in CORPUS_METRICS:
        return ratio
    metric = CORPUS_METRICS[name]()

    def corpus_scores(sums: np.ndarray) -> np.ndarray:
        rows = sums.reshape(-1, sums.shape[-1]).tolist()
        return np.array([metric._compute_score_from_stats(row).score for row in rows]).reshape(sums.shape[:-1])

    return corpus_scores


def _exact_match(answer: Answer) -> bool:
    return answer.prediction.strip() in {reference.strip() for reference in answer.references}


def _corpus_metric(name: str, answers: Sequence[Answer]) -> MetricResult:
    metric = CORPUS_METRICS[name]()
    # sacrebleu wants reference streams, with None where a question has fewer references than another.
    streams = list(zip_longest(*(answer.references for answer in answers)))
    # The same pair of calls that sacrebleu's own significance tests are built on; no public name gives chrF's counts.
    statistics = metric._extract_corpus_statistics([answer.prediction for answer in answers], streams)
    return MetricResult(name, np.array(statistics, dtype=np.float64), str(metric.get_signature()))
