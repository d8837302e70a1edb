"""Fixtures of the command-line tests: commands in this process, and a run to look at."""

import io
from pathlib import Path
from typing import Any

import pytest
from outcomes import SMALL, Cli, Outcome

from bases import chats, sums, write_rows
from lorica.cli import run


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in this process, as the `lorica` program would."""

    def _cli(*arguments: object, stdin: str | None = None) -> Outcome:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return _cli


@pytest.fixture(scope="session")
def chat_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on conversations. Not to be written to."""
    return _finished(tiny_base, tmp_path_factory.mktemp("chat"), chats())


@pytest.fixture(scope="session")
def text_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on prompts and completions. Not to be written to."""
    return _finished(tiny_base, tmp_path_factory.mktemp("text"), sums())


@pytest.fixture(scope="session")
def full_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that trained every weight. Not to be written to."""
    return _finished(tiny_base, tmp_path_factory.mktemp("full"), sums(), "method=full", but="lora.")


def _finished(base: Path, folder: Path, rows: list[dict[str, Any]], *more: str, but: str = "-") -> Path:
    import lorica

    data = write_rows(folder / "rows.jsonl", rows)
    overrides = [*(item for item in SMALL if not item.startswith(but)), "train.steps=8", *more]
    return Path(lorica.train(None, overrides, model=str(base), data=str(data), out=str(folder / "run")).run)
