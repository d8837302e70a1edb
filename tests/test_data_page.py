"""What docs/data.md shows is so: its rows are read as it says, its commands work, its table of gates is the code's."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from bases import sums, write_base, write_rows
from lorica.cli import run
from lorica.config import DataConfig
from lorica.data.read import survey

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), max_position_embeddings=512)


def test_rows_are_read_as_the_page_says(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [line for block in blocks("json") for line in block.splitlines()]
    formats = []
    for number, row in enumerate(rows):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(row + "\n", encoding="utf-8")
        read = survey(DataConfig(path=str(path)), tokenizer, 512, [tokenizer.eos_token_id])
        assert not [finding for finding in read.findings if finding.severity == "error"], read.findings
        formats.append(read.format)
    named = ["messages", "sharegpt", "alpaca", "prompt-completion", "text", "tokens", "preference", "kto"]
    assert formats == [*named, "messages"] and all(f"`{name}`" in PAGE for name in named)


def test_commands(base: Path, tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_rows(tmp_path / "rows.jsonl", sums(20))
    lines = "".join(f"{row['prompt']},{row['completion']}\n" for row in sums(20))
    (tmp_path / "more.csv").write_text("question,answer\n" + lines, encoding="utf-8")
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) >= 10
    for command in commands:
        program, *arguments = shlex.split(command.replace("$MODEL", str(base)), comments=True)
        assert program == "lorica"
        assert run(arguments) == 0, f"{command}\n{capfd.readouterr()}"
        assert capfd.readouterr().out


def test_several_sources(base: Path, tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", sums(20))
    lines = "".join(f"{row['prompt']},{row['completion']}\n" for row in sums(40)[20:])
    (tmp_path / "more.csv").write_text("question,answer\n" + lines, encoding="utf-8")
    [text] = blocks("yaml")
    (tmp_path / "run.yaml").write_text(text.replace("DIR_OR_HUB_ID", str(base)), encoding="utf-8")
    assert run(["data", "check", "run.yaml", "system.cache=none", "evaluate.enabled=false", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["rows"] == 40 and 20 < found["examples"]["training"] < 40


def test_the_table_of_gates_is_that_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "docs" / "make.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.with_gates(PAGE) == PAGE


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target
