"""Rows that cannot be read: gathered, so that one report holds them all, or left out and counted.

A `RowError` is the fault of one row; what spoils a whole source (a missing file, say) is a plain ValueError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from lorica.data.findings import Findings

SHOWN = 10
ENOUGH = 1000  # faults that end the reading even where all are gathered: more say nothing new
SKIPPED = "row cannot be read"


class RowError(ValueError):
    """What is wrong with one row: a paragraph that begins with its place."""


@dataclass
class _Reason:
    """The first message of those that say the same of different rows, and how many there are."""

    message: str
    count: int = 0


@dataclass
class Faults:
    """Gathers the faults of a source's rows. `skip` leaves such rows out as a finding, instead of ending the run."""

    source: str
    skip: bool
    findings: Findings
    count: int = 0
    _reasons: dict[str, _Reason] = field(default_factory=dict)

    @property
    def stopping(self) -> bool:
        """Whether the run will end, so that further rows are only looked at for their faults."""
        return self.count > 0 and not self.skip

    def add(self, place: str, error: RowError) -> None:
        """Notes the fault of the row at `place`.

        Raises:
            ValueError: there are enough to end the reading.
        """
        self.count += 1
        reason = str(error).replace(place, "", 1)
        if reason in self._reasons or len(self._reasons) < SHOWN:
            self._reasons.setdefault(reason, _Reason(str(error))).count += 1
        if self.skip:
            first = next(iter(self._reasons.values())).message
            self.findings.add(SKIPPED, place, f"Left out, as data.on_error: skip asks for. First: {first}")
        elif self.count >= ENOUGH:
            self.finish(0)

    def finish(self, read: int) -> None:
        """Ends the reading of the source, of which `read` rows are in use.

        Raises:
            ValueError: rows have faults and are not skipped, or none is left.
        """
        if not self.count or (self.skip and read):
            return
        reasons = self._reasons.values()
        if self.count == 1 and not self.skip:
            raise ValueError(*(reason.message for reason in reasons))
        more = self.count - sum(reason.count for reason in reasons)
        counted = f"{'at least ' * (self.count >= ENOUGH)}{self.count:,} row{'s' * (self.count > 1)}"
        head = f"All {counted} of {self.source}" if self.skip else f"{counted} of {self.source}"
        remedy = "" if self.skip else "\nMend them, or leave them out, counted, with data.on_error: skip."
        rest = f"\n- and {more:,} more" if more else ""
        listed = "".join(
            f"\n- {reason.message}" + (f" (and {reason.count - 1:,} more alike)" if reason.count > 1 else "")
            for reason in reasons
        )
        raise ValueError(f"{head} cannot be read:{listed}{rest}{remedy}")


def brief(value: object) -> str:
    """A value as JSON, shortened, for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:80] + "..."
