"""Line charts and interval marks as inline SVG, drawn here so that the page needs no script and no other file.

Colours come from the page's style sheet through class names, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 14, 42
MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Series:
    """Points in the order of x; `style` is one of the style sheet's: raw, smooth, dots, rate."""

    label: str
    style: str
    points: list[Point]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps data to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int

    def across(self, value: float) -> float:
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        return TOP + (self.y[1] - value) / (self.y[1] - self.y[0]) * (self.height - TOP - BOTTOM)


def line_chart(series: Sequence[Series], x_label: str, y_label: str, height: int = HEIGHT) -> Markup:
    """A chart over steps 0 to the last, titled for screen readers; empty where no series has a finite point."""
    drawn = [Series(s.label, s.style, finite(s.points)) for s in series]
    points = [point for s in drawn for point in s.points]
    if not points:
        return Markup("")
    end = max(x for x, _ in points)
    x_ticks = [tick for tick in nice_ticks(0, end, 8) if tick <= end]
    y_ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points), 5)
    frame = _Frame((0, end or 1), (y_ticks[0], y_ticks[-1]), height)
    parts = [rows(y_ticks, frame.down), columns(x_ticks, frame.across, height)]
    parts += [*(_draw(s, frame) for s in drawn), _axis_labels(x_label, y_label, height)]
    return drawing(height, f"{y_label} by {x_label}: {', '.join(s.label for s in drawn)}", parts)


def drawing(height: int, title: str, parts: Iterable[Markup], style: str = "chart") -> Markup:
    """A picture of so many rows of pixels, titled for screen readers."""
    svg = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img"><title>{}</title>{}</svg>')
    return svg.format(style, WIDTH, height, title, Markup("").join(parts))


def rows(ticks: Sequence[float], down: Callable[[float], float], unit: str = "") -> Markup:
    """A line across for each tick, its number to the left."""
    line = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text x="{}" y="{}" class="tick end">{}</text>'
    )
    found = []
    for tick in ticks:
        y = round(down(tick), 1)
        found.append(line.format(LEFT, WIDTH - RIGHT, LEFT - 8, round(y + 4, 1), f"{tick:g}{unit}", y=y))
    return Markup("").join(found)


def columns(ticks: Sequence[float], across: Callable[[float], float], height: int) -> Markup:
    """The number of each tick beneath its place."""
    mark = Markup('<text x="{}" y="{}" class="tick middle">{}</text>')
    return Markup("").join(mark.format(round(across(tick), 1), height - BOTTOM + 18, f"{tick:g}") for tick in ticks)


def interval_mark(
    difference: float, low: float, high: float, verdict: str | None, reach: float | None = None
) -> Markup:
    """A small bar from `low` to `high` with a dot at the difference and a line at zero, scaled to itself, or so that
    `reach` is the end."""
    reach = 1.1 * (reach or max(abs(low), abs(high), abs(difference))) or 1.0
    x = [round(60 + 56 * value / reach, 1) for value in (low, high, difference)]
    style = verdict if verdict in ("better", "worse") else "unclear"
    return Markup(
        '<svg class="mark {}" viewBox="0 0 120 18" aria-hidden="true">'
        '<line class="zero" x1="60" x2="60" y1="1" y2="17"/>'
        '<line class="span" x1="{}" x2="{}" y1="9" y2="9"/><circle cx="{}" cy="9" r="4"/></svg>'
    ).format(style, *x)


def smoothed(points: Sequence[Point], share: float = 0.04) -> list[Point]:
    """Centred moving average over `share` of the points (at least three): a trend line that does not lag."""
    half = max(1, round(len(points) * share / 2))
    averaged = []
    for index, (x, _) in enumerate(points):
        window = [y for _, y in points[max(0, index - half) : index + half + 1]]
        averaged.append((x, sum(window) / len(window)))
    return averaged


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about `most` points: neighbours are averaged, so that a long run does not make a heavy page."""
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), max(size, 1))]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that enclose [low, high] in about `about` steps."""
    span = (high - low) or abs(high) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def _draw(series: Series, frame: _Frame) -> Markup:
    places = [(round(frame.across(x), 1), round(frame.down(y), 1)) for x, y in series.points]
    if series.style == "dots":
        circles = Markup("").join(Markup('<circle cx="{}" cy="{}" r="4"/>').format(x, y) for x, y in places)
        return Markup('<g class="dots">{}{}</g>').format(_path(places), circles)
    return Markup('<g class="{}">{}</g>').format(series.style, _path(places))


def _path(places: Sequence[Point]) -> Markup:
    return Markup('<polyline points="{}"/>').format(" ".join(f"{x},{y}" for x, y in places))


def _axis_labels(x_label: str, y_label: str, height: int) -> Markup:
    middle = (TOP + height - BOTTOM) / 2
    return Markup(
        '<text class="axis middle" x="{}" y="{}">{}</text>'
        '<text class="axis middle" transform="translate(12 {}) rotate(-90)">{}</text>'
    ).format((LEFT + WIDTH - RIGHT) / 2, height - 6, x_label, middle, y_label)
