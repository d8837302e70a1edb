"""How each measured quantity is called, which direction is better, and how its numbers are written for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantity:
    """`percent` values are stored as shares in [0, 1] and shown as percentages, their changes as points."""

    label: str
    lower_is_better: bool = False
    percent: bool = False
    decimals: int = 3

    def value(self, number: float | None) -> str:
        if number is None:
            return "not a number"
        return f"{100 * number:.1f} %" if self.percent else f"{number:.{self.decimals}f}"

    def change(self, number: float | None) -> str:
        """A difference with its sign, in the quantity's unit (percentage points for shares)."""
        if number is None:
            return "–"
        shown = f"{100 * number:+.1f}" if self.percent else f"{number:+.{self.decimals}f}"
        return shown.replace("-", "−")


_KNOWN = {
    "loss": Quantity("loss per token", lower_is_better=True),
    "token_accuracy": Quantity("token accuracy", percent=True),
    "exact_match": Quantity("exact match", percent=True),
    "bleu": Quantity("BLEU", decimals=1),
    "chrf": Quantity("chrF", decimals=1),
    "general_loss": Quantity("general text loss", lower_is_better=True),
}


def quantity(name: str) -> Quantity:
    """The quantity of a known name; anything else is the user's metric, of which more is better."""
    return _KNOWN.get(name) or Quantity(name.rpartition(":")[2])


def duration(seconds: float) -> str:
    """Seconds in the two largest units: "42.0 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
