"""Fixtures of the data tests."""

import json
from pathlib import Path
from typing import Any

import pytest
from makers import CHATML, byte_level, data_config


@pytest.fixture
def chatml() -> Any:
    """A byte-level tokenizer with the ChatML template."""
    tokenizer = byte_level(specials=("<|im_start|>",))
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes rows to a JSONL file and returns the data section that reads it."""

    def _write(rows: list[dict[str, Any]], **options: Any) -> Any:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return data_config(path, **options)

    return _write
