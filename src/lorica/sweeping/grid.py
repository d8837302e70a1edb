"""What is varied: `section.key=` with several values, or a range to choose them from, and the trials that follow.

train.lr=1e-4,3e-4,1e-3     these values
train.lr=log:1e-5:1e-3:5    5 values from 1e-5 to 1e-3, evenly spaced in their logarithm
lora.dropout=linear:0:0.2:3 3 values, evenly spaced
train.lr=random:1e-5:1e-3:8 8 values drawn log-uniformly
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

SPACINGS = ("log", "linear", "random")
MOST_TRIALS = 1000


@dataclass(frozen=True)
class Trial:
    """One combination: `settings` are overrides "section.key=value" of what is varied, in the order given."""

    number: int
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        """Short and unique: "003-lr=0.0003-r=8"."""
        told = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values.items())
        return f"{self.number:03d}-{''.join(c if c.isalnum() or c in '=-+._' else '_' for c in told)}"[:120]

    @property
    def values(self) -> dict[str, str]:
        """The varied settings by dotted key."""
        return {key: value for key, _, value in (setting.partition("=") for setting in self.settings)}


def varied(overrides: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The overrides that have one value, and (key, values) of those that have several.

    Raises ValueError for a range that cannot be read.
    """
    fixed: list[str] = []
    several: list[tuple[str, list[str]]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        values = _values(key.strip(), text.strip()) if equals else []
        if len(values) > 1:
            several.append((key.strip(), values))
        else:
            fixed.append(override)
    return fixed, several


def trials(several: Sequence[tuple[str, list[str]]]) -> list[Trial]:
    """Every combination. Raises ValueError for none or too many."""
    if not several:
        raise ValueError(
            "nothing is varied. Give a setting several values, such as train.lr=1e-4,3e-4,1e-3, or a range, such as "
            "train.lr=log:1e-5:1e-3:5."
        )
    count = math.prod(len(values) for _, values in several)
    if count > MOST_TRIALS:
        raise ValueError(f"these values make {count:,} combinations; a sweep takes at most {MOST_TRIALS:,}.")
    keys = [key for key, _ in several]
    combinations = product(*(values for _, values in several))
    return [
        Trial(number, tuple(f"{key}={value}" for key, value in zip(keys, combination, strict=True)))
        for number, combination in enumerate(combinations)
    ]


def _values(key: str, text: str) -> list[str]:
    kind, colon, rest = text.partition(":")
    if colon and kind in SPACINGS:
        return _range(key, kind, rest.split(":"))
    parts = _split(text)
    doubled = sorted({part for part in parts if parts.count(part) > 1})
    if doubled:
        raise ValueError(f"{key} is given {doubled[0]} twice; a sweep tries every value once.")
    return parts


def _split(text: str) -> list[str]:
    """The values between commas that stand outside brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    parts.append(text[start:].strip())
    return parts


def _range(key: str, kind: str, numbers: list[str]) -> list[str]:
    try:
        low, high, count = float(numbers[0]), float(numbers[1]), int(numbers[2])
        sound = len(numbers) == 3 and math.isfinite(low) and math.isfinite(high) and low < high and 2 <= count <= 100
    except (ValueError, IndexError):
        sound = False
    if not sound or (kind != "linear" and low <= 0):
        raise ValueError(
            f"{key}={kind}:{':'.join(numbers)} is no range; expected {kind}:LOW:HIGH:COUNT with LOW below HIGH"
            f"{'' if kind == 'linear' else ', both above 0'}, and COUNT from 2 to 100, such as {kind}:1e-5:1e-3:5."
        )
    if kind == "linear":
        points = [low + (high - low) * i / (count - 1) for i in range(count)]
    elif kind == "log":
        points = [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    else:
        drawn = random.Random(f"{key} {low} {high} {count}")  # the same numbers whenever it is asked
        points = sorted(low * (high / low) ** drawn.random() for _ in range(count))
    return [f"{point:.4g}" for point in points]
