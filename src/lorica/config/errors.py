"""What is wrong with a configuration: every problem at once, each with the place it was written."""

import json
from dataclasses import dataclass
from typing import Any

LONGEST_VALUE = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: where it was written (file:line:column or "command line"), the dotted key, and what to do."""

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.place, f"{self.key}:" if self.key else "", self.message) if part)


def shown(value: Any) -> str:
    """A value as a file would hold it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


class ConfigError(ValueError):
    """The configuration cannot be used; `problems` lists every fault found and `str()` is the readable report."""

    def __init__(self, problems: list[Problem]) -> None:
        assert problems, "a ConfigError needs a problem"
        self.problems = problems
        super().__init__(self._report())

    def _report(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        return "\n".join([f"The configuration has {len(self.problems)} problems:", *(f"  {p}" for p in self.problems)])
