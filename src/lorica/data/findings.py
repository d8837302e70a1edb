"""What was noticed while reading the data: counted, and named by row, so that nothing happens silently."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """Something true of some rows: a short `name`, the rows ("file:line") and a sentence for the user."""

    name: str
    rows: list[str]
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {len(self.rows)} row{'s' * (len(self.rows) != 1)} ({listing(self.rows)}). {self.message}"


@dataclass
class Findings:
    """Collects findings by name while rows stream past."""

    _rows: dict[str, dict[str, None]] = field(default_factory=dict)
    _messages: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, row: str, message: str) -> None:
        """Notes `row` under `name`; the latest message stands for all rows of that name."""
        self._rows.setdefault(name, {})[row] = None
        self._messages[name] = message

    def rows(self, name: str) -> list[str]:
        """The rows noted under `name` so far, each once, in the order they were noted."""
        return list(self._rows.get(name, ()))

    def all(self) -> list[Finding]:
        """Every finding, in the order in which each was first made."""
        return [Finding(name, list(rows), self._messages[name]) for name, rows in self._rows.items()]


def listing(items: list[str]) -> str:
    """The first few of `items`, and how many more there are."""
    shown = ", ".join(items[:SHOWN])
    return shown if len(items) <= SHOWN else f"{shown} and {len(items) - SHOWN} more"
