"""Held-out loss against one varied number, as inline SVG: a line for each combination of the other settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lorica.evaluation.charts import nice_ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 320, 76, 16, 14, 46
Point = tuple[float, float, bool]  # value, loss, whether the trial was finished


def loss_chart(rows: Sequence[Mapping[str, Any]], key: str) -> Markup:
    """`rows` as a comparison gives them. Trials that were stopped early are hollow; empty where nothing is a number."""
    lines = _lines(rows, key)
    points = [point for line in lines.values() for point in line]
    if len({value for value, _, _ in points}) < 2:
        return Markup("")
    logarithmic = min(value for value, _, _ in points) > 0
    across = _scale([value for value, _, _ in points], LEFT + 20, WIDTH - RIGHT - 20, logarithmic)
    ticks = nice_ticks(min(loss for _, loss, _ in points), max(loss for _, loss, _ in points), 5)
    down = _scale([ticks[0], ticks[-1]], HEIGHT - BOTTOM, TOP, logarithmic=False)
    parts = [_grid(down, ticks), _values(across, sorted({value for value, _, _ in points}))]
    parts += [_line(number, name, line, across, down) for number, (name, line) in enumerate(lines.items())]
    title = Markup("<title>held-out loss by {}</title>").format(key)
    label = Markup('<text class="axis middle" x="{}" y="{}">{}</text>').format((LEFT + WIDTH) / 2, HEIGHT - 6, key)
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img">{}{}{}</svg>')
    return svg.format(WIDTH, HEIGHT, title, Markup("").join(parts), label)


def numeric_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The varied settings that have at least two numbers as values, the learning rate first."""
    keys = list(rows[0]["settings"]) if rows else []
    found = [key for key in keys if len({v for row in rows if (v := _number(row["settings"][key])) is not None}) > 1]
    return sorted(found, key=lambda key: key != "train.lr")


def _lines(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Point]]:
    furthest = max(row["steps"] for row in rows)
    lines: dict[str, list[Point]] = {}
    for row in rows:
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


def _grid(down: Any, ticks: Sequence[float]) -> Markup:
    return Markup("").join(
        Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text x="{}" y="{}" class="tick end">{}</text>')
        .format(LEFT, WIDTH - RIGHT, LEFT - 8, down(tick) + 4, f"{tick:g}", y=down(tick))
        for tick in ticks
    )  # fmt: skip


def _values(across: Any, values: Sequence[float]) -> Markup:
    mark = Markup('<text x="{}" y="{}" class="tick middle">{}</text>')
    return Markup("").join(mark.format(across(value), HEIGHT - BOTTOM + 18, f"{value:g}") for value in values)


def _line(number: int, name: str, points: Sequence[Point], across: Any, down: Any) -> Markup:
    places = [(across(value), down(loss), finished) for value, loss, finished in points]
    path = " ".join(f"{x},{y}" for x, y, _ in places)
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
            "finished" if finished else "stopped", x, y, f"{value:g}: {loss:.4f}"
        )
        for (x, y, finished), (value, loss, _) in zip(places, points, strict=True)
    )
    last_x, last_y, _ = places[-1]
    label = Markup('<text class="name end" x="{}" y="{}">{}</text>').format(last_x, last_y - 8, name)
    return Markup('<g class="line line{}"><polyline points="{}"/>{}{}</g>').format(number % 6, path, dots, label)
