"""Fixtures of the run tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bases import sums, write_rows

UNLIKE = [
    {"prompt": "seven plus seven is", "completion": " seven seven four four plus ten ten"},
    {"prompt": "zzz", "completion": "ten ten ten!"},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """40 rows of prompt and completion."""
    return write_rows(tmp_path / "rows.jsonl", sums())


@pytest.fixture
def settings(tiny_base: Path, rows: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A small run as keyword values of `lorica.train`; sections that are given are merged into it.

    The held-out file "unlike" holds rows that training makes worse after a few steps.
    """
    unlike = write_rows(tmp_path / "unlike.jsonl", UNLIKE)

    def _settings(name: str = "run", **sections: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "model": str(tiny_base),
            "data": str(rows),
            "out": str(tmp_path / name),
            "lora": {"r": 3, "alpha": 5},
            "train": {"steps": 8, "batch_size": 4, "lr": 0.01},
            "evaluate": {"held_out": 0.2, "samples": 1, "max_new_tokens": 3, "forgetting": None},
            "system": {"threads": 1, "tokens_per_microbatch": 256, "checkpointing": "none"},
        }
        for section, given in sections.items():
            both_mappings = isinstance(given, dict) and isinstance(values.get(section), dict)
            values[section] = values[section] | given if both_mappings else given
        if values["evaluate"] and values["evaluate"].get("held_out") == "unlike":
            values["evaluate"]["held_out"] = str(unlike)
        return {key: value for key, value in values.items() if value is not None}

    return _settings
