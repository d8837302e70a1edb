"""What was noticed while reading the data: counted, and named by row, so that nothing happens silently.

Rows are named up to a limit and counted beyond it, so that a fault in every row of a large file costs no memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from lorica.config.data_section import Severity

SHOWN = 5
NAMED = 1000


@dataclass(frozen=True)
class Finding:
    """Something true of some rows: a short `name`, the rows ("file:line"), a sentence for the user, how grave it is.

    `more` is the number of further rows, which are not named.
    """

    name: str
    rows: list[str]
    message: str
    severity: Severity = "note"
    more: int = 0

    @property
    def count(self) -> int:
        """How many rows it is true of."""
        return len(self.rows) + self.more

    @property
    def gate(self) -> str:
        """The name as a key of `data.gates`."""
        return gate_key(self.name)

    def to_dict(self) -> dict[str, Any]:
        """As `lorica data check --json` prints it."""
        named = {"gate": self.gate, "severity": self.severity, "rows": self.rows, "message": self.message}
        return named | {"count": self.count}

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.name}: {self.message}"
        return (
            f"{self.name}: {counted(self.count, 'row')} ({listing(_shortened(self.rows), self.more)}). {self.message}"
        )


@dataclass(slots=True)
class _Noted:
    message: str
    rows: list[str] = field(default_factory=list)
    more: int = 0
    last: str | None = None


@dataclass
class Findings:
    """Collects findings by name while rows stream past."""

    _noted: dict[str, _Noted] = field(default_factory=dict)

    def add(self, name: str, row: str, message: str) -> None:
        """Notes `row` under `name`, once where it is noted several times in a row; the latest message stands."""
        noted = self._noted.setdefault(name, _Noted(message))
        noted.message = message
        if row == noted.last:
            return
        noted.last = row
        if len(noted.rows) < NAMED:
            noted.rows.append(row)
        else:
            noted.more += 1

    def add_rows(self, name: str, rows: list[str], count: int, message: str) -> None:
        """Notes `count` rows at once, of which the first are named."""
        self._noted[name] = _Noted(message, rows[:NAMED], count - len(rows[:NAMED]))

    def rows(self, name: str) -> list[str]:
        """The rows named under `name` so far, in the order they were noted."""
        return list(self._noted[name].rows) if name in self._noted else []

    def all(self) -> list[Finding]:
        """Every finding, in the order in which each was first made."""
        return [Finding(name, list(it.rows), it.message, more=it.more) for name, it in self._noted.items()]

    def by_row(self) -> dict[str, list[tuple[str, str]]]:
        """For each named row, what was found in it: (name, message)."""
        found: dict[str, list[tuple[str, str]]] = {}
        for name, noted in self._noted.items():
            for row in noted.rows:
                found.setdefault(row, []).append((name, noted.message))
        return found


def gate_key(name: str) -> str:
    """The name as `data.gates` writes it: empty_assistant_turn for "empty assistant turn".

    What a name has in quotes (which field, say) is a detail of the finding and not part of the gate.
    """
    return re.sub(r"\W+", "_", re.sub(r"'[^']*' ", "", name).replace("'", ""))


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listing(items: list[str], more: int = 0) -> str:
    """The first few of `items`, and how many more there are."""
    rest = len(items) - len(items[:SHOWN]) + more
    return ", ".join(items[:SHOWN]) + (f" and {rest:,} more" if rest else "")


def _shortened(rows: list[str]) -> list[str]:
    """Without the file's name where it is that of the first: a:1, a:2 as a:1, 2; a[1], a[2] as a[1], [2]."""
    first = rows[0]
    place = first[: first.rindex("[")] if first.endswith("]") and "[" in first else first[: first.rfind(":") + 1]
    return [first, *(row.removeprefix(place) for row in rows[1:])]
