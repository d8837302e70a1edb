"""Loss and accuracy per row against float64 and one row at a time."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import random_rows, tiny_llama

from lorica.data.examples import Example
from lorica.evaluation.scores import Scores, score

LENGTHS = [9, 31, 2, 14, 14, 23, 5]


def _slow_score(model: Any, row: Example) -> tuple[float, float, float]:
    """Weighted loss sum, weight sum and weighted hits of one row, token by token in float64."""
    with torch.no_grad():
        logits = model.double()(input_ids=torch.tensor([row.input_ids])).logits[0]
    loss = weight = hits = 0.0
    for position in range(1, len(row.input_ids)):
        row_logits = logits[position - 1]
        target = row.input_ids[position]
        loss += row.weights[position] * float(torch.logsumexp(row_logits, 0) - row_logits[target])
        hits += row.weights[position] * (int(row_logits.argmax()) == target)
        weight += row.weights[position]
    return loss, weight, hits


@pytest.mark.parametrize("capacity", [1, 40, 500])
def test_matches_float64_row_by_row(model: Any, capacity: int) -> None:
    rows = random_rows(LENGTHS)
    rows[1] = Example("copied", _greedy_row(model, rows[1]), rows[1].weights, rows[1].completion_start)
    scores = score(model, rows, capacity, "cpu")
    expected = np.array([_slow_score(tiny_llama(), row) for row in rows])
    np.testing.assert_allclose(scores.loss_sums, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(scores.weights, expected[:, 1])
    np.testing.assert_allclose(scores.correct, expected[:, 2])
    assert scores.correct[1] > 0.9 * scores.weights[1], "a row the model wrote itself is ranked first"
    assert scores.tokens.tolist() == [sum(w > 0 for w in row.weights) for row in rows]
    assert scores.loss == pytest.approx(expected[:, 0].sum() / expected[:, 1].sum(), rel=1e-5)
    assert scores.token_accuracy == pytest.approx(expected[:, 2].sum() / expected[:, 1].sum())


def _greedy_row(model: Any, row: Example) -> list[int]:
    ids = row.input_ids[: row.completion_start]
    while len(ids) < len(row.input_ids):
        with torch.no_grad():
            ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return ids


def test_leaves_the_model_as_it_was(model: Any) -> None:
    model = tiny_llama()
    model.train()
    model.model.layers[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    scores = score(model, random_rows([6, 4]), 8, "cpu")
    assert {name: module.training for name, module in model.named_modules()} == before
    assert np.isfinite(scores.loss) and all(p.grad is None for p in model.parameters())


def test_names_the_rows_whose_loss_is_not_finite() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[66] = float("nan")
    rows = random_rows([8, 8, 8], vocabulary=60)
    rows[1].input_ids[0] = 66
    scores = score(model, rows, 1, "cpu")
    assert scores.not_finite == ["rows.jsonl:2"]
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict(), allow_nan=False)))
    assert again.not_finite == ["rows.jsonl:2"] and np.isnan(again.loss)


def test_rows_of_one_prompt_are_one_cluster(model: Any) -> None:
    rows = random_rows([9] * 8)
    for index in (3, 6):
        rows[index].input_ids[:3] = rows[0].input_ids[:3]
    assert score(model, rows, 90, "cpu").clusters.tolist() == [0, 1, 2, 0, 3, 4, 0, 5]
    few = [rows[0], rows[3], rows[6]]
    assert score(model, few, 90, "cpu").clusters.tolist() == [0, 1, 2], "one prompt only: each row stands for itself"


def test_reports_progress_and_survives_json(model: Any) -> None:
    seen: list[tuple[int, int]] = []
    scores = score(model, random_rows(LENGTHS), 32, "cpu", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(LENGTHS), len(LENGTHS)) and seen == sorted(set(seen)) and len(seen) > 1
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict())))
    assert again.loss == scores.loss and again.sources == scores.sources
    np.testing.assert_array_equal(again.loss_statistics, scores.loss_statistics)
