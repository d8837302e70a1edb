"""Task metrics against sacrebleu's own corpus scores, hand-made cases, and the user's own function."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from lorica.evaluation.bootstrap import paired_interval
from lorica.evaluation.completions import Answer
from lorica.evaluation.metrics import MetricResult, check_metric, measure, score_function

TEXTS = [
    ("The Vaults is a cheap pub.", ["The Vaults is a cheap pub near Café Adriatic."]),
    ("It is near the river", ["It lies near the river.", "You find it near the river, not far."]),
    ("", ["Nothing was said.", "Silence.", "No answer at all."]),
    ("Ça coûte 10 £, 東京!", ["Ça coûte 10 £, 東京!"]),
    ("family friendly coffee shop in the city centre", ["A coffee shop in the city centre, family friendly."]),
    ("one two three four five", ["five four three two one"]),
]


def _answers(texts: list[tuple[str, list[str]]]) -> list[Answer]:
    return [Answer(f"rows.jsonl:{n}", f"prompt {n}", refs, text, True) for n, (text, refs) in enumerate(texts, 1)]


def _sacrebleu(name: str, texts: list[tuple[str, list[str]]]) -> float:
    most = max(len(references) for _, references in texts)
    streams = [[refs[k] if k < len(refs) else None for _, refs in texts] for k in range(most)]
    metric = sacrebleu.BLEU() if name == "bleu" else sacrebleu.CHRF()
    return float(metric.corpus_score([text for text, _ in texts], streams).score)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_any_resample_scores_as_sacrebleu_scores_that_corpus(name: str) -> None:
    result = measure(name, _answers(TEXTS))
    assert result.score == pytest.approx(_sacrebleu(name, TEXTS), rel=1e-12) and result.score > 5
    generator = np.random.default_rng(2)
    for _ in range(10):
        drawn = generator.integers(0, len(TEXTS), len(TEXTS)).tolist()
        expected = _sacrebleu(name, [TEXTS[index] for index in drawn])
        assert score_function(name)(result.statistics[drawn].sum(0)) == pytest.approx(expected, rel=1e-12)
    assert result.signature is not None and "nrefs:var" in result.signature


def test_bleu_of_many_sums_at_once() -> None:
    result = measure("bleu", _answers(TEXTS))
    sums = np.stack([result.statistics.sum(0), result.statistics[:2].sum(0)])
    each = [float(score_function("bleu")(row)) for row in sums]
    assert score_function("bleu")(sums).tolist() == each and each[0] != each[1]
    better = measure("bleu", _answers([(refs[0], refs) for _, refs in TEXTS]))
    interval = paired_interval(result.statistics, better.statistics, score_function("bleu"), resamples=200)
    assert interval.difference == pytest.approx(better.score - result.score)
    assert interval.low is not None and interval.low > 0


def test_exact_match_ignores_the_space_around_and_takes_any_reference() -> None:
    answers = _answers([(" yes\n", ["yes"]), ("Yes", ["yes"]), ("b", ["a", "b "]), ("", ["a"])])
    result = measure("exact_match", answers)
    assert result.statistics.tolist() == [[1, 1], [0, 1], [1, 1], [0, 1]] and result.score == 0.5


def test_results_survive_json() -> None:
    result = measure("chrf", _answers(TEXTS))
    again = MetricResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.score == result.score and again.signature == result.signature


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'bleu'.*exact_match, bleu, chrf.*module:function"):
        check_metric("blue")


FUNCTIONS = """
def overlap(prediction, reference, prompt):
    shared = set(prediction.split()) & set(reference.split())
    return len(shared) / max(1, len(set(reference.split()))) + (10 if prompt == "prompt 2" else 0)

def fails(prediction: str, reference: str, prompt: str) -> float:
    return 1 / len(prediction)

def text(prediction, reference, prompt):
    return "good"

def nan(prediction, reference, prompt):
    return float("nan")

def two(prediction, reference):
    return 1.0

threshold = 0.5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_metrics.py").write_text(FUNCTIONS, encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "own_needs.py").write_text("import no_such_package_here\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)
    return tmp_path


def test_own_function_from_the_current_directory(folder: Path) -> None:
    before = list(sys.path)
    answers = _answers([("a b c", ["a b d e"]), ("x y", ["q", "x z"])])
    result = measure("own_metrics:overlap", answers)
    assert result.statistics[:, 0].tolist() == [0.5, 10.5], "the best reference counts"
    assert result.score == 5.5 and sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_metrics:", "should read"),
        (":overlap", "should read"),
        ("no_such_module_here:f", "no module 'no_such_module_here'.*Run from the folder"),
        ("own_metrics:absent", r"own_metrics\.py has no function 'absent'.*f\(prediction"),
        ("own_metrics:threshold", "has no function 'threshold'"),
        ("own_metrics:two", "cannot be called as .*too many"),
        ("own_broken:f", "importing 'own_broken' failed with SyntaxError"),
        ("own_needs:f", "imports 'no_such_package_here', which is not installed"),
    ],
)
def test_own_function_that_cannot_be_used(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_metric(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_metrics:fails", "failed on row rows.jsonl:3 with ZeroDivisionError"),
        ("own_metrics:text", "returned 'good'.*on row rows.jsonl:1; expected a finite number"),
        ("own_metrics:nan", "returned nan"),
    ],
)
def test_own_function_that_fails_names_the_row(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(name, _answers(TEXTS))
