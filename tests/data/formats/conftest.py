"""Fixtures of the formats' tests."""

from typing import Any

import pytest

from lorica.data.faults import Faults
from lorica.data.findings import Findings
from lorica.data.formats import Record, Records
from lorica.data.sources import Row
from lorica.data.supervision import Supervision


class Reader:
    """Reads rows given as values; `format` is what they were read as, `names` what was noticed."""

    def __init__(self) -> None:
        self.format = ""
        self.findings = Findings()

    def __call__(
        self, *rows: dict[str, Any], format: str = "auto", columns: dict[str, str] | None = None, **options: Any
    ) -> list[Record]:
        self.findings = Findings()
        faults = Faults("x.jsonl", False, self.findings)
        given = [Row(f"x:{number}", values) for number, values in enumerate(rows, start=1)]
        records = Records(given, format, Supervision(**options), self.findings, faults, columns)
        read = list(records)
        self.format = records.format
        return read

    def one(self, row: dict[str, Any], **options: Any) -> Any:
        [record] = self(row, **options)
        return record

    @property
    def names(self) -> list[str]:
        return [finding.name for finding in self.findings.all()]


@pytest.fixture
def read() -> Reader:
    return Reader()
