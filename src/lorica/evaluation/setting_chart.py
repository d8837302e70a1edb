"""Held-out loss against one varied number, as inline SVG: a line for each combination of the other settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lorica.evaluation.charts import BOTTOM, LEFT, RIGHT, TOP, WIDTH, columns, drawing, nice_ticks, rows

HEIGHT, NAME_HEIGHT = 320, 13
Point = tuple[float, float, bool]  # value, loss, whether the trial was finished


def loss_chart(trials: Sequence[Mapping[str, Any]], key: str) -> Markup:
    """`trials` as a comparison gives them; those that were stopped early are hollow. Empty without numbers to draw."""
    lines = _lines(trials, key)
    points = [point for line in lines.values() for point in line]
    if len({value for value, _, _ in points}) < 2:
        return Markup("")
    logarithmic = min(value for value, _, _ in points) > 0
    across = _scale([value for value, _, _ in points], LEFT + 20, WIDTH - RIGHT - 20, logarithmic)
    ticks = nice_ticks(min(loss for _, loss, _ in points), max(loss for _, loss, _ in points), 5)
    down = _scale([ticks[0], ticks[-1]], HEIGHT - BOTTOM, TOP, logarithmic=False)
    parts = [rows(ticks, down), columns(sorted({value for value, _, _ in points}), across, HEIGHT)]
    parts += [_line(number, line, across, down) for number, line in enumerate(lines.values())]
    parts += _names([(across(line[-1][0]), down(line[-1][1]), name) for name, line in lines.items()])
    label = Markup('<text class="axis middle" x="{}" y="{}">{}</text>').format((LEFT + WIDTH) / 2, HEIGHT - 6, key)
    return drawing(HEIGHT, f"held-out loss by {key}", [*parts, label])


def numeric_keys(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """The varied settings that have at least two numbers as values, the learning rate first."""
    keys = list(trials[0]["settings"]) if trials else []
    found = [key for key in keys if len({v for row in trials if (v := _number(row["settings"][key])) is not None}) > 1]
    return sorted(found, key=lambda key: key != "train.lr")


def _lines(trials: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Point]]:
    furthest = max(row["steps"] for row in trials)
    lines: dict[str, list[Point]] = {}
    for row in trials:
        value, loss = _number(row["settings"][key]), row["held_out_loss"]
        if value is not None and loss is not None:
            others = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in row["settings"].items() if k != key)
            lines.setdefault(others, []).append((value, loss, row["steps"] == furthest))
    return {name: sorted(points) for name, points in lines.items()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _scale(values: Sequence[float], start: float, end: float, logarithmic: bool) -> Any:
    transform = math.log10 if logarithmic else float
    low, high = transform(min(values)), transform(max(values))
    return lambda value: round(start + (transform(value) - low) / ((high - low) or 1.0) * (end - start), 1)


def _names(ends: Sequence[tuple[float, float, str]]) -> list[Markup]:
    """The lines' names above their ends, in their colours; from the lowest on, none on another."""
    label, found, lowest = Markup('<text class="name end line{}" x="{}" y="{}">{}</text>'), [], math.inf
    for number, (x, y, name) in sorted(enumerate(ends), key=lambda end: -end[1][1]):
        lowest = min(y - 8, lowest - NAME_HEIGHT)
        found.append(label.format(number % 6, x, round(lowest, 1), name))
    return found


def _line(number: int, points: Sequence[Point], across: Any, down: Any) -> Markup:
    places = [(across(value), down(loss), finished) for value, loss, finished in points]
    path = " ".join(f"{x},{y}" for x, y, _ in places)
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
            "finished" if finished else "stopped", x, y, f"{value:g}: {loss:.4f}"
        )
        for (x, y, finished), (value, loss, _) in zip(places, points, strict=True)
    )
    return Markup('<g class="line line{}"><polyline points="{}"/>{}</g>').format(number % 6, path, dots)
