"""The terminal report at 80 columns."""

import io
from typing import Any

from rich.console import Console
from sides import FACTS, side

from lorica.evaluation.report import build_report
from lorica.evaluation.terminal import print_report


def _printed(report: dict[str, Any]) -> str:
    file = io.StringIO()
    print_report(report, Console(file=file, width=80, color_system=None))
    return file.getvalue()


def test_table_fits_80_columns_one_line_a_quantity() -> None:
    before = side([13.0 + 0.1 * n for n in range(20)], ["x"] * 20, [12.0] * 8)
    after = side([12.0 + 0.1 * n for n in range(20)], [f"word {n}" for n in range(20)], [11.9, 12.1] * 4)
    lines = _printed(build_report(before, after, FACTS)).splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert "exact match 0.0 % 100.0 % +100.0 +100.0 … +100.0 better" in rows
    assert any(r.startswith("loss per token 13.950 12.950 −1.000 −1.000 … −1.000 better") for r in rows)
    assert any(r.startswith("general text loss 12.000 12.000") and r.endswith("no clear difference") for r in rows)
    assert max(map(len, lines)) <= 80 and rows[1] == "Better than the base model"
    assert any("4,096 trainable parameters of 1,000,000 (0.41 %) · 40 steps · 1 min 15 s" in r for r in rows)


def test_texts_are_shown_as_they_are_and_shortened() -> None:
    prompt = "[bold]not markup[/bold] " + "long " * 200
    text = _printed(build_report(side([3.0], ["a\n\nb"], prompt=prompt), side([2.0], [""], prompt=prompt), {}))
    assert "[bold]not markup[/bold]" in text and "a b" in text and " … " in text
    assert len(text.splitlines()) < 30


def test_nothing_evaluated_is_said_plainly() -> None:
    notes = ["No held-out rows: nothing was evaluated."]
    text = _printed(build_report(side([], notes=notes), side([], notes=notes), {}))
    assert text.split("\n")[1:3] == ["Not measured", "No held-out rows were evaluated."]
    assert "Note: No held-out rows" in text and "interval" not in text
