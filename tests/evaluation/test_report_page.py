"""The page: self-contained, escaped, well-formed, with charts that place points where the numbers say."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from sides import FACTS, side

from lorica.evaluation.charts import Series, line_chart, nice_ticks, smoothed, thinned
from lorica.evaluation.differences import compare
from lorica.evaluation.page import render_page
from lorica.evaluation.report import build_report

ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)>"
HISTORY: list[dict[str, Any]] = [
    *({"step": step, "loss": 4.0 - 0.05 * step, "lr": 1e-3} for step in range(1, 41)),
    {"step": 20, "held_out_loss": 3.1},
    {"step": 30, "loss": None, "lr": None},
]
VOID = {"meta", "br", "img", "link", "input", "hr"}


class _Balance(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _parsed(page: str) -> _Balance:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def _page(**changes: Any) -> str:
    before = side([3.0 + 0.1 * n for n in range(20)], ["no " + ATTACK] * 20, [2.0] * 8, prompt=ATTACK)
    after = side([2.0 + 0.1 * n for n in range(20)], [f"word {n}" for n in range(20)], [2.0] * 8, prompt=ATTACK)
    facts = {**FACTS, "model": ATTACK, **changes}
    return render_page(build_report(before, after, facts), HISTORY)


def test_text_of_the_user_is_escaped_everywhere() -> None:
    page = _page(
        run=ATTACK,
        findings=[{"name": ATTACK, "rows": [ATTACK], "message": ATTACK}],
        settings={ATTACK: {"value": ATTACK, "origin": ATTACK}},
        receipt={ATTACK: ATTACK},
    )
    tags = {tag for tag, _ in _parsed(page).seen}
    assert "script" not in tags and "img" not in tags
    assert page.count("&lt;script&gt;") >= 12


def test_nothing_comes_from_elsewhere() -> None:
    page = _page()
    for tag, attributes in _parsed(page).seen:
        assert tag not in {"link", "script", "iframe", "object"}, tag
        assert not {"src", "href", "onload"} & set(attributes)
    assert (
        "url(" not in page and "@import" not in page and "prefers-color-scheme: dark" in page and "@media print" in page
    )


def test_says_what_the_report_says() -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", _page()))
    for expected in (
        "Better than the base model",
        "0.0 % 100.0 % +100.0",
        "3.950 2.950 −1.000",
        "20 held-out rows (100 supervised tokens)",
        "4,096 0.41 % of 1,000,000",
        "3.2 GB planned 2.1 GB",
        "a.jsonl, b.jsonl",
        "✓ same as the reference",
        "Data: duplicate.",
        "train.lr 0.001 config.yaml:4",
        "base.weights sha256:ab12",
        "files[0].path a.jsonl",
    ):
        assert expected in text, expected
    assert text.count("✓ same as the reference") == 5, "the tuned answers, not the base's"


def test_bare_report_still_makes_a_page() -> None:
    page = render_page(build_report(side([]), side([]), {}), [])
    assert "Not measured" in page and "<svg" not in page
    _parsed(page)


@pytest.mark.parametrize(
    ("text", "references", "wrong"),
    [
        ("The cat sat.", ["The dog sat."], "cat"),
        ('{"a": 1}', ['{"a": 2}'], "1"),
        ("same", ["other", "same"], ""),
        ("all wrong", ["x"], "all wrong"),
        ("東京 is big", ["東京 is small"], "big"),
    ],
)
def test_differences_mark_what_the_closest_reference_lacks(text: str, references: list[str], wrong: str) -> None:
    pieces = compare(text, references)
    assert "".join(piece.text for piece in pieces) == text
    assert "".join(piece.text for piece in pieces if not piece.agrees) == wrong


def test_chart_places_points_by_value() -> None:
    series = Series("loss", "smooth", [(0.0, 4.0), (5.0, 2.0), (10.0, 0.0)])
    chart = str(line_chart([series], "step", "loss"))
    points = re.search(r'points="([^"]*)"', chart)
    assert points is not None
    (x0, y0), (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in points[1].split())
    assert x0 < x1 < x2 and y0 < y1 < y2
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)


def test_series_that_start_at_different_steps_share_one_axis() -> None:
    late, early = (
        Series("train", "smooth", [(1.0, 2.0), (4.0, 1.0)]),
        Series("held out", "dots", [(0.0, 3.0), (4.0, 1.5)]),
    )
    chart = str(line_chart([late, early], "step", "loss"))
    lines = [line.split() for line in re.findall(r'points="(.*?)"', chart)]
    late_x, early_x = (float(line[0].split(",")[0]) for line in lines)
    left = float(re.findall(r'class="grid" x1="([0-9.]+)"', chart)[0])
    assert early_x == left < late_x


def test_chart_skips_what_is_not_finite() -> None:
    assert line_chart([Series("loss", "smooth", [(1.0, float("nan"))])], "step", "loss") == ""
    chart = line_chart([Series("loss", "dots", [(1.0, 2.0), (2.0, float("inf")), (3.0, 1.0)])], "step", "loss")
    assert str(chart).count("<circle") == 2 and "nan" not in chart and "inf" not in chart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (0.83, 4.41, [0, 1, 2, 3, 4, 5]),
        (1e-4, 3e-4, [1e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4]),
        (1e-14, 3e-14, [1e-14, 1.5e-14, 2e-14, 2.5e-14, 3e-14]),
        (2.0, 2.0, [2.0, 2.5]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high, 5) == pytest.approx(expected, rel=1e-9, abs=0)


def test_smoothing_and_thinning_keep_the_shape() -> None:
    line = [(float(step), 3.0 + step) for step in range(1_000)]
    assert smoothed(line)[500] == pytest.approx(line[500])
    thin = thinned(line, 100)
    assert len(thin) == 100 and thin[0] == pytest.approx((4.5, 7.5))
    assert thinned(line[:7], 100) == line[:7] and thinned([], 5) == []
