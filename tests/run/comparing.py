"""What two runs must have in common to be the same run."""

from pathlib import Path
from typing import Any

from lorica.training.run_folder import RunFolder

TIMINGS = ("seconds", "tokens_per_second")


def metrics(run: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl but for the timings."""
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in RunFolder(run).read_metrics()]


def trained_bytes(run: str | Path) -> bytes:
    """The file of trained weights: an adapter, or a whole model."""
    folder = RunFolder(run)
    adapter = folder.adapter / "adapter_model.safetensors"
    return adapter.read_bytes() if adapter.is_file() else (folder.model / "model.safetensors").read_bytes()


def assert_same_run(left: str | Path, right: str | Path) -> None:
    assert metrics(left) == metrics(right)
    assert trained_bytes(left) == trained_bytes(right)
