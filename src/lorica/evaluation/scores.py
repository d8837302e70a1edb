"""Loss and token accuracy of a model on rows, kept per row so that two models can be compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorica.data.batches import Batch, microbatches
from lorica.data.examples import Example
from lorica.data.lanes import side_by_side
from lorica.evaluation.bootstrap import MINIMUM_PAIRS, ratio
from lorica.training.engine import Engine, PlainEngine

Progress = Callable[[int, int], None]
TOGETHER = 512  # examples packed together


@dataclass(frozen=True)
class Scores:
    """What a model scored on each row. All arrays are (rows,); sums run over the row's supervised tokens."""

    sources: list[str]
    clusters: np.ndarray  # int64: rows with the same number answer the same prompt
    loss_sums: np.ndarray  # float64, nats, weighted
    weights: np.ndarray  # float64
    correct: np.ndarray  # float64, weighted argmax hits
    tokens: np.ndarray  # int64, supervised tokens

    @property
    def loss(self) -> float:
        """Nats per supervised token: the weighted sum over all rows divided by the weights' total. NaN without rows."""
        return float(ratio(self.loss_statistics.sum(0)))

    @property
    def token_accuracy(self) -> float:
        """Share of supervised tokens that the model ranks first, weighted, in [0, 1]. NaN without rows."""
        return float(ratio(self.accuracy_statistics.sum(0)))

    @property
    def loss_statistics(self) -> np.ndarray:
        return np.stack([self.loss_sums, self.weights], axis=1)

    @property
    def accuracy_statistics(self) -> np.ndarray:
        return np.stack([self.correct, self.weights], axis=1)

    @property
    def not_finite(self) -> list[str]:
        """Sources of the rows whose loss is NaN or infinite."""
        return [source for source, loss in zip(self.sources, self.loss_sums, strict=True) if not np.isfinite(loss)]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; a loss that is not finite becomes None, because JSON has no NaN."""
        return {
            "sources": self.sources,
            "clusters": self.clusters.tolist(),
            "loss_sums": [loss if np.isfinite(loss) else None for loss in self.loss_sums.tolist()],
            "weights": self.weights.tolist(),
            "correct": self.correct.tolist(),
            "tokens": self.tokens.tolist(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scores:
        return cls(
            sources=list(values["sources"]),
            clusters=np.array(values["clusters"], dtype=np.int64),
            loss_sums=np.array(values["loss_sums"], dtype=np.float64),
            weights=np.array(values["weights"], dtype=np.float64),
            correct=np.array(values["correct"], dtype=np.float64),
            tokens=np.array(values["tokens"], dtype=np.int64),
        )


def score(
    model: torch.nn.Module,
    examples: Sequence[Example],
    capacity: int,
    device: torch.device | str,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Scores:
    """Scores every row, packed into microbatches of at most `capacity` tokens (a longer row gets its own).

    `engine` computes the model's losses; None is the model's own forward pass. Sums are accumulated in float64. The
    model's train/eval state is put back afterwards.
    """
    return score_lanes(model, examples, capacity, device, 1, progress, engine)[0]


def score_lanes(
    model: torch.nn.Module,
    examples: Sequence[Example],
    capacity: int,
    device: torch.device | str,
    lanes: int,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> list[Scores]:
    """As `score`, for each lane of a model with an adapter of so many: every lane sees every row."""
    engine = engine or PlainEngine(model)
    totals, done = np.zeros((lanes, len(examples), 4)), 0
    with evaluating(model), torch.inference_mode():
        for members, batch in _batches(examples, capacity):
            losses, correct = engine.token_losses(side_by_side([batch] * lanes).batch.to(device))
            # float64 only after the move: some devices do not have it.
            by_lane = zip(losses.cpu().double().chunk(lanes), correct.cpu().double().chunk(lanes), strict=True)
            for lane, (own_losses, own_correct) in enumerate(by_lane):
                totals[lane, members] += _statistics(batch, own_losses, own_correct)
            done += len(members)
            if progress is not None:
                progress(done, len(examples))
    sources, clusters = [example.source for example in examples], _clusters(examples)
    return [_scores(sources, clusters, total) for total in totals]


def _statistics(batch: Batch, losses: Tensor, correct: Tensor) -> np.ndarray:
    """What each document of a batch adds up to, (documents, 4) float64: losses, weights, hits, tokens."""
    weights = batch.weights.double()
    statistics = torch.stack([losses * weights, weights, correct * weights, torch.ones_like(weights)], dim=1)
    rows = torch.zeros(len(batch.members), 4, dtype=torch.float64)
    return np.asarray(rows.index_add_(0, batch.owners, statistics))


def _scores(sources: list[str], clusters: np.ndarray, totals: np.ndarray) -> Scores:
    loss_sums, weights, correct, tokens = (totals[:, column].copy() for column in range(4))
    return Scores(sources, clusters, loss_sums, weights, correct, tokens.astype(np.int64))


def _batches(examples: Sequence[Example], capacity: int) -> Iterator[tuple[list[int], Batch]]:
    """Microbatches with the indices of their examples, of which some hundred are in memory at a time."""
    for start in range(0, len(examples), TOGETHER):
        for batch in microbatches(list(examples[start : start + TOGETHER]), capacity):
            yield [start + member for member in batch.members], batch


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for the length of a block, then each module as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _clusters(examples: Sequence[Example]) -> np.ndarray:
    """Labels rows by prompt (text rows by their whole content), so that they can be resampled together.

    With only a handful of distinct prompts there is nothing to resample: then every row stands for itself.
    """
    labels: dict[tuple[int, ...], int] = {}
    clusters = [labels.setdefault(tuple(row.input_ids[: row.completion_start]), len(labels)) for row in examples]
    return np.array(clusters if len(labels) >= MINIMUM_PAIRS else range(len(examples)), dtype=np.int64)
