"""Fixtures of the sources' tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorica.config.data_section import SourceConfig
from lorica.data.faults import Faults
from lorica.data.findings import Finding, Findings
from lorica.data.sources import Row, read_rows


class Source:
    """Reads a path and keeps what was found on the way."""

    def __init__(self) -> None:
        self.findings = Findings()

    def __call__(self, path: Path | str, skip: bool = False, **options: Any) -> list[Row]:
        self.findings = Findings()
        faults = Faults(str(path), skip, self.findings)
        rows = list(read_rows(SourceConfig(path=str(path), **options), faults, self.findings))
        faults.finish(len(rows))
        return rows

    def values(self, path: Path | str, **options: Any) -> list[dict[str, Any]]:
        return [row.values for row in self(path, **options)]

    def found(self) -> dict[str, Finding]:
        return {finding.name: finding for finding in self.findings.all()}


@pytest.fixture
def read() -> Source:
    return Source()


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    """Writes a file below the temporary folder."""

    def _put(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _put
