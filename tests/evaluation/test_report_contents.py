"""What the report says: numbers against hand computation, verdicts, and every awkward case."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from sides import FACTS, side

from lorica.evaluation.quantities import duration, quantity
from lorica.evaluation.report import build_report, write_report

BEFORE = [3.0 + 0.1 * n for n in range(20)]
AFTER = [2.0 + 0.12 * n for n in range(20)]
WRONG = ["nothing"] * 20
RIGHT = [f"word {number}" for number in range(18)] + ["no", "no"]


def _report(before: Any, after: Any) -> dict[str, Any]:
    return build_report(before, after, FACTS)


def test_numbers_by_hand() -> None:
    report = _report(side(BEFORE, WRONG, [2.0, 2.2] * 6), side(AFTER, RIGHT, [2.1, 2.2] * 6))
    assert report["before"]["loss"] == pytest.approx(3.95) and report["after"]["loss"] == pytest.approx(3.14)
    assert report["after"]["token_accuracy"] == pytest.approx(sum(math.exp(-loss) for loss in AFTER) / 20)
    assert report["before"]["metrics"] == {"exact_match": 0.0}
    assert report["after"]["metrics"] == {"exact_match": 0.9}
    assert report["differences"]["loss"] == pytest.approx(-0.81)
    low, high = report["intervals"]["loss"]
    assert -1.0 < low < -0.81 < high < -0.62
    assert report["verdicts"] == {"loss": "better", "token_accuracy": "better", "exact_match": "better"}
    assert report["verdict"] == "better"
    assert report["headline"].startswith("Exact match went from 0.0 % to 90.0 % (95 % interval of the change: +")
    assert (report["after"]["rows"], report["after"]["tokens"], report["after"]["answers"]) == (20, 100, 20)
    assert report["trainable_parameters"] == 4_096 and report["plan"] == {"peak_bytes": 2 * 1024**3}


def test_forgetting_per_token_and_per_byte() -> None:
    forgetting = _report(side(BEFORE, general=[2.0] * 10), side(AFTER, general=[2.1, 2.3] * 5))["forgetting"]
    assert forgetting["before"] == {"loss": pytest.approx(2.0), "loss_per_byte": pytest.approx(0.5)}
    assert forgetting["differences"]["loss"] == pytest.approx(0.2)
    assert forgetting["differences"]["loss_per_byte"] == pytest.approx(0.05)
    low, high = forgetting["intervals"]["loss_per_byte"]
    assert 0.025 < low < 0.05 < high < 0.075 and forgetting["verdict"] == "worse"


def test_headline_says_what_was_forgotten() -> None:
    worse = _report(side(BEFORE, general=[2.0] * 10), side(AFTER, general=[2.5] * 10))
    assert worse["headline"].endswith("It forgot some general text: the loss there rose by 0.500.")
    assert worse["verdict"] == "better", "the verdict is about the task; forgetting is said beside it"
    same = _report(side(BEFORE, general=[2.0] * 10), side(AFTER, general=[1.9, 2.1] * 5))
    assert same["headline"].endswith("No clear forgetting of general text.")


def test_headline_tells_what_its_verdict_is_from() -> None:
    report = _report(side(BEFORE, WRONG), side(AFTER, WRONG))
    assert report["verdict"] == "better"
    first, rest = report["headline"].split(").", 1)
    assert first.startswith("Exact match went from 0.0 % to 0.0 %")
    assert rest.startswith(" Loss per token went from 3.950 to 3.140")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((AFTER, RIGHT), (BEFORE, WRONG), "worse"),
        ((BEFORE, RIGHT), (AFTER, WRONG), "mixed"),
        (([2.0, 3.0] * 10, WRONG), ([2.1, 2.9] * 10, WRONG), "no clear difference"),
        ((BEFORE[:3], WRONG[:3]), (AFTER[:3], RIGHT[:3]), "too few rows"),
    ],
)
def test_overall_verdict(before: Any, after: Any, verdict: str) -> None:
    assert _report(side(*before), side(*after))["verdict"] == verdict


def test_one_row_gives_numbers_but_no_interval() -> None:
    report = _report(side([3.0]), side([2.0]))
    assert report["differences"]["loss"] == pytest.approx(-1.0) and report["intervals"]["loss"] is None
    assert report["verdicts"]["loss"] is None and report["verdict"] == "too few rows"
    assert "loss per token: no interval, an interval needs more than one row." in report["notes"]
    assert report["headline"] == "Loss per token went from 3.000 to 2.000."


def test_loss_that_is_not_finite_is_null_and_named() -> None:
    report = _report(side(BEFORE), side([float("nan"), *AFTER[1:-1], float("inf")]))
    assert report["after"]["loss"] is None and report["intervals"]["loss"] is None
    assert (
        report["verdict"] == "worse" and report["headline"] == "Loss per token after training is not a finite number."
    )
    assert "The loss after is not a finite number on a.jsonl:1, a.jsonl:20." in report["notes"]
    json.dumps(report, allow_nan=False)


def test_nothing_evaluated() -> None:
    notes = ["No held-out rows: nothing was evaluated."]
    report = _report(side([], notes=notes), side([], notes=notes))
    assert report["verdict"] == "not measured" and report["before"]["loss"] is None
    assert report["intervals"] == {} and report["forgetting"] is None and report["notes"] == notes


def test_notes_say_which_side_they_are_about() -> None:
    report = _report(side(BEFORE, notes=["both", "cut 9"]), side(AFTER, notes=["both", "cut 2"]))
    assert report["notes"] == ["both", "Before: cut 9", "After: cut 2"]


def test_different_rows_cannot_be_compared() -> None:
    for other in (side(AFTER[:-1]), side(AFTER, RIGHT), side(AFTER, general=[1.0])):
        with pytest.raises(ValueError, match="did not measure the same rows"):
            _report(side(BEFORE), other)


def test_samples_are_spread_over_the_answers() -> None:
    samples = _report(side(BEFORE, WRONG), side(AFTER, RIGHT))["samples"]
    assert [sample["source"] for sample in samples] == [f"a.jsonl:{n}" for n in (1, 5, 9, 13, 17)]
    assert samples[1] == {
        "source": "a.jsonl:5",
        "prompt": "say 4",
        "reference": "word 4",
        "references": ["word 4"],
        "before": "nothing",
        "after": "word 4",
    }


def test_files_are_sorted_and_without_nan(tmp_path: Path) -> None:
    report = _report(side(BEFORE, WRONG, [2.0] * 8), side([float("nan"), *AFTER[1:]], RIGHT, [2.0] * 8))
    page, numbers = write_report(report, tmp_path, [{"step": 1, "loss": 3.0, "lr": 0.1}])
    text = numbers.read_text(encoding="utf-8")
    assert json.loads(text) == report and "NaN" not in text
    assert list(json.loads(text)) == sorted(report)
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"] == [page.name, numbers.name]
    )


def test_how_numbers_are_written() -> None:
    assert quantity("loss").change(-0.5) == "−0.500" and quantity("token_accuracy").change(0.123) == "+12.3"
    assert quantity("own.metrics:closeness").label == "closeness" and quantity("bleu").value(None) == "not a number"
    assert (duration(42.04), duration(185.2), duration(7_830)) == ("42.0 s", "3 min 05 s", "2 h 10 min")
