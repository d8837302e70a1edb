"""One side of a comparison end to end, on a tiny model whose answers can be dictated."""

import json
from typing import Any

import numpy as np
import pytest
from stand_ins import random_rows, row_of_text, tiny_llama

from lorica.data.examples import Example
from lorica.evaluation.completions import decode
from lorica.evaluation.evaluation import Evaluation, evaluate
from lorica.evaluation.generation import generate


def _rows_the_model_answers(model: Any, tokenizer: Any, prompts: list[str]) -> list[Example]:
    """Rows whose references are what the model generates, but for the last one, which is wrong."""
    rows = []
    for number, prompt in enumerate(prompts, start=1):
        given = [1, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        answer = decode(tokenizer, generate(model, tokenizer, [given], 6, [])[0])
        rows.append(row_of_text(tokenizer, prompt, answer if number < len(prompts) else "WRONG!", f"r:{number}"))
    return rows


def test_everything_is_measured_and_survives_json(model: Any, tokenizer: Any) -> None:
    rows = _rows_the_model_answers(model, tokenizer, ["ONE", "TWO, OR", "THREE"])
    stages: list[str] = []
    result = evaluate(
        model,
        tokenizer,
        rows,
        capacity=50,
        device="cpu",
        metrics=["exact_match", "chrf"],
        max_new_tokens=6,
        max_length=64,
        stop_ids=[2],
        progress=lambda stage, done, total: stages.append(stage),
    )
    exact, chrf = result.metrics
    assert exact.score == pytest.approx(2 / 3) and 60 < chrf.score < 100
    assert [answer.prompt for answer in result.answers] == ["ONE", "TWO, OR", "THREE"]
    assert result.notes == ["3 of 3 answers did not end by themselves within 6 tokens."]
    assert list(dict.fromkeys(stages)) == ["answers", "general text", "held-out rows"]
    again = Evaluation.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert again.to_dict() == result.to_dict()
    assert again.scores is not None and result.scores is not None and again.scores.loss == result.scores.loss


def test_generation_is_limited_and_falls_back_to_samples(model: Any, tokenizer: Any) -> None:
    rows = random_rows([9] * 12)
    options: dict[str, Any] = {"capacity": 50, "device": "cpu", "stop_ids": [2], "max_new_tokens": 2, "samples": 3}
    options["forgetting"] = None
    assert len(evaluate(model, tokenizer, rows, **options).answers) == 3
    some = evaluate(model, tokenizer, rows, metrics=["bleu"], generate_rows=7, **options)
    assert len(some.answers) == 7 and some.general is None
    assert some.scores is not None and len(some.scores.sources) == 12, "loss is measured on every row"


def test_plain_text_rows_have_no_answers(model: Any, tokenizer: Any) -> None:
    rows = [Example("t:1", [1, 9, 8, 7], [0.0, 1.0, 1.0, 1.0], None)]
    result = evaluate(model, tokenizer, rows, capacity=9, device="cpu", stop_ids=[2], metrics=["bleu"], forgetting=None)
    assert result.answers == [] and result.metrics == [] and result.scores is not None
    assert result.notes == ["bleu: not measured, because the held-out rows are plain text without an answer."]


def test_no_held_out_rows(model: Any, tokenizer: Any) -> None:
    result = evaluate(model, tokenizer, [], capacity=9, device="cpu", stop_ids=[2], metrics=["bleu"], forgetting=None)
    assert result.scores is None and "No held-out rows" in result.notes[0]
    assert Evaluation.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize("wrong", [{"metrics": ["bleu", "blue"]}, {"forgetting": "absent.txt"}])
def test_a_bad_setting_is_refused_before_anything_is_computed(tokenizer: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Unknown metric 'blue'|Cannot read the general text absent\.txt"):
        evaluate(None, tokenizer, random_rows([9]), capacity=9, device="cpu", stop_ids=[2], **wrong)


def test_microbatch_size_changes_nothing(tokenizer: Any) -> None:
    model, rows = tiny_llama().eval(), random_rows([9, 20, 4, 16])
    one, other = (
        evaluate(model, tokenizer, rows, capacity=c, device="cpu", stop_ids=[2], max_new_tokens=3) for c in (1, 300)
    )
    assert one.scores is not None and other.scores is not None and one.general is not None and other.general is not None
    np.testing.assert_allclose(one.scores.loss_sums, other.scores.loss_sums, rtol=1e-5)
    np.testing.assert_allclose(one.general.scores.loss_sums, other.general.scores.loss_sums, rtol=1e-5)
    assert one.answers == other.answers
