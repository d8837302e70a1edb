"""Predicted beside measured, run after run, kept on the machine that ran."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorica.files import write_atomically
from lorica.planning.here import machines_folder

MOST = 1000  # runs that are kept


def history_path() -> Path:
    return machines_folder() / "runs.jsonl"


def remember(entry: Mapping[str, Any]) -> None:
    """Add a run: `run`, `model`, `machine`, `planned` and `measured`, each with `peak_bytes`, `tokens_per_second`. A
    cache folder that cannot be written keeps nothing."""
    path = history_path()
    lines = [json.dumps(old) for old in read_history()][1 - MOST :]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, ("\n".join([*lines, json.dumps(entry)]) + "\n").encode())
    except OSError:
        return


def read_history() -> list[dict[str, Any]]:
    """The runs on this machine, the oldest first; lines that are none are passed over."""
    path = history_path()
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and all(isinstance(entry.get(side), dict) for side in ("planned", "measured")):
            found.append(entry)
    return found
