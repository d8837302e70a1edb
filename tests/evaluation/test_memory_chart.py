"""The picture of memory over a step."""

import itertools
import re

from lorica.evaluation.charts import BOTTOM, TOP
from lorica.evaluation.memory_chart import HEIGHT, memory_chart

STAGES = [
    ["embed", [100, 0, 10], [100, 0, 20]],
    ["forward 0", [100, 5, 10], [100, 30, 20]],
    ["loss", [100, 40, 0], [100, 40, 60]],
    ["backward 0", [100, 40, -3], [100, 40, 10]],
    ["update", [100, 0, 0], [100, 0, 0]],
]


def scaled(stages: list, factor: int) -> list:
    return [[name, [x * factor for x in held], [x * factor for x in peak]] for name, held, peak in stages]


def test_bands_lie_on_each_other_and_reach_the_peak() -> None:
    svg = str(memory_chart({"terms": ["weights", "kept", "loss"], "stages": scaled(STAGES, 10**6)}))
    bands = re.findall(r'<polygon class="term-(\d)" points="([^"]+)"', svg)
    assert [number for number, _ in bands] == ["0", "1", "2"]
    sides = []
    for _, points in bands:
        places = [tuple(map(float, point.split(","))) for point in points.split()]
        assert len(places) == 4 * len(STAGES)
        sides.append((places[: len(places) // 2], places[len(places) // 2 :][::-1]))
    for (upper, _), (_, lower) in itertools.pairwise(sides):
        assert upper == lower, "a band begins where the one beneath ends"
    floor = HEIGHT - BOTTOM
    assert all(y == floor for _, y in sides[0][1])
    assert "peak 200 MB" in svg and min(y for _, y in sides[-1][0]) == TOP, "the top tick is 200 MB"
    assert all(word in svg for word in (">forward<", ">backward<"))


def test_nothing_to_draw() -> None:
    assert memory_chart({"terms": [], "stages": []}) == ""
