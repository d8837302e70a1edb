"""Memory over one training step, as it was planned: a band a term, so that one sees which to cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from lorica.evaluation.charts import BOTTOM, LEFT, RIGHT, TOP, WIDTH, drawing, nice_ticks, rows
from lorica.units import shown_bytes

HEIGHT = 320
PARTS = {"embed": "forward", "forward": "forward", "loss": "loss", "backward": "backward", "update": "update"}


def memory_chart(timeline: Mapping[str, Any]) -> Markup:
    """A stacked area over the stages of a step. `timeline` has `terms`, and `stages`: `[name, bytes at its beginning,
    bytes at its peak]`, bytes in the order of the terms. Empty without stages."""
    stages, terms = timeline["stages"], timeline["terms"]
    if not stages:
        return Markup("")
    columns = [column for _, held, peak in stages for column in (held, peak)]
    totals = [sum(_positive(column)) for column in columns]
    unit, size = ("GB", 10**9) if max(totals) >= 10**9 else ("MB", 10**6)
    ticks = nice_ticks(0, max(totals) / size, 5)
    scale = (HEIGHT - TOP - BOTTOM) / ticks[-1] / size
    grid = rows(ticks, lambda tick: HEIGHT - BOTTOM - tick * size * scale, f" {unit}")
    bands = [_band(number, columns, scale) for number in range(len(terms))]
    parts = [grid, *bands, _stage_names([name for name, *_ in stages]), _peak(totals, scale)]
    return drawing(HEIGHT, f"memory over a training step, planned: {', '.join(terms)}", parts, "chart memory")


def _positive(column: Sequence[int]) -> list[int]:
    return [max(0, size) for size in column]


def _across(place: float, count: int) -> float:
    return round(LEFT + place / max(1, count - 1) * (WIDTH - LEFT - RIGHT), 1)


def _band(number: int, columns: Sequence[Sequence[int]], scale: float) -> Markup:
    """From the sum of the terms beneath to the sum with this one."""
    floor, count = HEIGHT - BOTTOM, len(columns)
    sums = [(sum(_positive(column)[:number]), sum(_positive(column)[: number + 1])) for column in columns]
    if all(low == high for low, high in sums):
        return Markup("")
    upper = [f"{_across(i, count)},{floor - high * scale:.1f}" for i, (_, high) in enumerate(sums)]
    lower = [f"{_across(i, count)},{floor - low * scale:.1f}" for i, (low, _) in enumerate(sums)]
    return Markup('<polygon class="term-{}" points="{}"/>').format(number, " ".join(upper + lower[::-1]))


def _stage_names(names: Sequence[str]) -> Markup:
    """Forward, loss, backward and update, where there is room for the word."""
    parts, start, count = [], 0, 2 * len(names)
    for part, group in groupby(names, key=lambda name: PARTS[name.partition(" ")[0]]):
        size = 2 * len(list(group))
        left, right = _across(start, count), _across(min(start + size, count - 1), count)
        if right - left > 7 * len(part):
            label = Markup('<text class="middle" x="{}" y="{}">{}</text>')
            parts.append(label.format(round((left + right) / 2, 1), HEIGHT - BOTTOM + 18, part))
        if start:
            line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
            parts.append(line.format(left, left, TOP, HEIGHT - BOTTOM))
        start += size
    return Markup("").join(parts)


def _peak(totals: Sequence[int], scale: float) -> Markup:
    highest = max(totals)
    x, y = _across(totals.index(highest), len(totals)), HEIGHT - BOTTOM - highest * scale
    mark = Markup('<circle class="peak" cx="{}" cy="{}" r="4"/><text class="{}" x="{}" y="{}">{}</text>')
    end = x > WIDTH / 2
    text = f"peak {shown_bytes(highest)}"
    return mark.format(x, round(y, 1), "end" if end else "", x + (-8 if end else 8), round(y - 6, 1), text)
