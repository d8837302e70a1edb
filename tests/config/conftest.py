"""Fixtures of the configuration's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorica.config import ConfigError, load

Write = Callable[[str], Path]
Report = Callable[..., list[str]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes `run.yaml` into the working directory, so that places read `run.yaml:1:1`."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> Path:
        path = Path("run.yaml")
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def report(write: Write) -> Report:
    """The lines of the error that a configuration file and overrides lead to."""

    def lines(text: str, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(write(text), list(overrides))
        return [str(problem) for problem in caught.value.problems]

    return lines
