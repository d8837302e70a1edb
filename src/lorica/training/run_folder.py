"""A run is a folder: everything about it is in files there, and only one process trains into it.

`config.yaml` (resolved, with the origin of every value), `receipt.json` (hashes, versions, machine), `metrics.jsonl`,
`learning_rate.json` (what `train.lr: auto` tried), `before.json` and `after.json` (the untouched base and the result,
measured row by row), `checkpoints/`, `adapter/` (PEFT's format) or `model/`, `report.json`, `report.html`.
"""

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lorica.files import write_atomically


def metrics_line(record: Mapping[str, float | int]) -> str:
    """A line of metrics.jsonl; null stands for a value that is not finite, which JSON does not have."""
    values = {name: value if math.isfinite(value) else None for name, value in record.items()}
    return json.dumps(values, allow_nan=False) + "\n"


class RunFolder:
    """Paths of a run, and its line-by-line metrics."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.receipt = self.path / "receipt.json"
        self.metrics = self.path / "metrics.jsonl"
        self.before = self.path / "before.json"
        self.after = self.path / "after.json"
        self.search = self.path / "learning_rate.json"
        self.checkpoints = self.path / "checkpoints"
        self.adapter = self.path / "adapter"
        self.model = self.path / "model"
        self.report = self.path / "report.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock goes with the process, however it ends.

        Raises ValueError if another process trains into the folder, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another process is training into {self.path}; wait for it, or give this run another out."
            ) from None
        except OSError as error:
            raise ValueError(
                f"the run folder {self.path} cannot be written ({error.strerror}); give another out."
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def quoted(self) -> str:
        """Its path as a shell takes it."""
        return shlex.quote(str(self.path))

    def holds_a_run(self) -> bool:
        return os.path.isfile(self.config)  # also of a name that is too long

    def append_metrics(self, record: Mapping[str, float | int]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(metrics_line(record))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records so far; a last line that a kill cut in half is left out."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def diverged(self) -> bool:
        """Whether the last step that was computed gave a loss or gradient that is no number, which ends a run."""
        last = (self.read_metrics() or [{}])[-1]
        return any(name in last and last[name] is None for name in ("loss", "grad_norm"))

    def truncate_metrics(self, step: int) -> None:
        """Drop what was recorded after `step`, which a resumed run will record again."""
        kept = [record for record in self.read_metrics() if record["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(record) + "\n" for record in kept).encode())
