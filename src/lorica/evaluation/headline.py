"""One plain sentence that says what the run did, and the rows of the comparison table that both layouts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorica.evaluation.quantities import Quantity, quantity

TITLES = {
    "better": "Better than the base model",
    "worse": "Worse than the base model",
    "mixed": "Better in some ways, worse in others",
    "no clear difference": "No clear difference from the base model",
    "too few rows": "Too few held-out rows to tell",
    "not measured": "Not measured",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the before/after table."""

    name: str
    quantity: Quantity
    before: float | None
    after: float | None
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str | None

    @property
    def interval_text(self) -> str:
        if self.interval is None:
            return "no interval"
        return " … ".join(self.quantity.change(end) for end in self.interval)


def comparisons(report: Mapping[str, Any]) -> list[Comparison]:
    """Task metrics first (they are what the user asked for), then loss, token accuracy and the general text."""
    lines = [
        Comparison(
            name=name,
            quantity=quantity(name),
            before=_value(report["before"], name),
            after=_value(report["after"], name),
            difference=difference,
            interval=_pair(report["intervals"][name]),
            verdict=report["verdicts"][name],
        )
        for name, difference in report["differences"].items()
    ]
    lines.sort(key=lambda line: line.name in ("loss", "token_accuracy"))
    return lines + ([_forgetting(report["forgetting"])] if report["forgetting"] else [])


def headline(report: Mapping[str, Any]) -> tuple[str, str]:
    """(verdict, sentence): the verdict over all quantities of the task, the numbers of the first of them, and where
    those say nothing, of the first that carries the verdict."""
    lines = comparisons(report)
    task = [line for line in lines if line.name != "general_loss"]
    told = task[:1]
    if told and told[0].verdict == "no clear difference":
        told += [line for line in task if line.verdict in ("better", "worse")][:1]
    sentences = [_sentence(line) for line in told] or ["No held-out rows were evaluated."]
    forgotten = [line for line in lines if line.name == "general_loss"]
    return _overall(task), " ".join([*sentences, *map(_forgetting_sentence, forgotten)])


def _overall(task: list[Comparison]) -> str:
    if not task:
        return "not measured"
    if any(line.after is None for line in task):
        return "worse" if all(line.before is not None for line in task) else "not measured"
    found = {line.verdict for line in task}
    clear = found & {"better", "worse"}
    if len(clear) == 2:
        return "mixed"
    if clear:
        return clear.pop() or "not measured"
    return "no clear difference" if "no clear difference" in found else "too few rows"


def _sentence(line: Comparison) -> str:
    name = line.quantity.label[0].upper() + line.quantity.label[1:]
    if line.before is None or line.after is None:
        side = "after" if line.after is None else "before"
        return f"{name} {side} training is not a finite number."
    went = f"{name} went from {line.quantity.value(line.before)} to {line.quantity.value(line.after)}"
    return f"{went}." if line.interval is None else f"{went} (95 % interval of the change: {line.interval_text})."


def _forgetting_sentence(line: Comparison) -> str:
    if line.verdict == "worse":
        return f"It forgot some general text: the loss there rose by {line.quantity.change(line.difference)[1:]}."
    if line.verdict == "better":
        return "Loss on general text fell as well."
    return "No clear forgetting of general text." if line.verdict else "Forgetting could not be judged."


def _forgetting(forgetting: Mapping[str, Any]) -> Comparison:
    return Comparison(
        name="general_loss",
        quantity=quantity("general_loss"),
        before=forgetting["before"]["loss"],
        after=forgetting["after"]["loss"],
        difference=forgetting["differences"]["loss"],
        interval=_pair(forgetting["intervals"]["loss"]),
        verdict=forgetting["verdict"],
    )


def _value(side: Mapping[str, Any], name: str) -> float | None:
    return side[name] if name in ("loss", "token_accuracy") else side["metrics"][name]


def _pair(ends: list[float] | None) -> tuple[float, float] | None:
    return None if ends is None else (ends[0], ends[1])
