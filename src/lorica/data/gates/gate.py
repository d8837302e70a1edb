"""What a gate is, and how grave what it finds is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lorica.data.findings import Finding, Severity, counted, gate_key

UNREADABLE = "cannot be read"
HANDFUL = 10  # rows


@dataclass(frozen=True, slots=True)
class Gate:
    """A question asked of every data set. `name` is that of its findings; `data.gates` writes it with underscores.

    `severity` is the default. Where more than the share `ruins_above` of all rows is found, and not just a handful, it
    is an error: a slip in one row is worth a line, the same slip in every second row is a mistake in how the set was
    made. A `fixed` one cannot be let through, because nothing could be trained then.
    """

    name: str
    severity: Severity
    meaning: str
    ruins_above: float | None = None
    fixed: bool = False

    @property
    def key(self) -> str:
        return gate_key(self.name)

    def judge(self, finding: Finding, rows: int, chosen: Mapping[str, Severity]) -> Finding:
        """The finding with its severity: as chosen, else by default and by its share of `rows`."""
        if self.key in chosen:
            return replace(finding, severity=chosen[self.key])
        ruins = self.ruins_above is not None and finding.count > max(HANDFUL, self.ruins_above * rows)
        return replace(finding, severity="error" if ruins else self.severity)


class RefusedData(ValueError):
    """The data would spoil the training. `findings` are the errors among what was found."""

    def __init__(self, findings: Sequence[Finding], remedy: str) -> None:
        self.findings = list(findings)
        super().__init__(_paragraph(self.findings, remedy))


def _paragraph(findings: list[Finding], remedy: str) -> str:
    """A reading that failed speaks for itself; what gates found is listed."""
    if all(finding.name == UNREADABLE for finding in findings):
        return "\n".join(finding.message for finding in findings)
    reasons = counted(len(findings), "reason")
    listed = "\n".join(f"- {finding}" for finding in findings)
    return f"the data would spoil this training, for {reasons}:\n{listed}\n{remedy}"
