"""Runs, adapters and models from their folders, ready to answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.lora import Adapter, load_adapter
from lorica.lora.checkpoint import CONFIG, read_json
from lorica.models import Base, load
from lorica.training.run_folder import RunFolder


@dataclass
class Opened:
    """`adapter` is None for a model without one; `conversational` says whether prompts go through the chat template."""

    base: Base
    adapter: Adapter | None
    conversational: bool


def read_report(run: str | Path) -> dict[str, Any]:
    """The report of a finished run. Raises ValueError if there is none."""
    folder = RunFolder(run)
    if not folder.report.is_file():
        if not folder.holds_a_run():
            raise ValueError(f"{folder.path} holds no run (no {folder.config.name}).")
        steps = max((record["step"] for record in folder.read_metrics()), default=0)
        raise ValueError(
            f"the run in {folder.path} has no report yet: it stands at step {steps}. Continue it with: lorica "
            f"train --resume {folder.path}"
        )
    report: dict[str, Any] = read_json(folder.report)
    if report.get("evaluated") is False:
        raise ValueError(
            f"the run in {folder.path} was not evaluated (evaluate.enabled was false), so it has no report."
        )
    return report


def open_for_answers(path: str | Path, device: str = "auto", allow_other_base: bool = False) -> Opened:
    """Open a run's folder, an adapter's folder (its config names the base), or a model's directory or hub id.

    Raises ValueError if the path is none of them, or its base cannot be loaded or is another one.
    """
    folder = Path(path)
    run = RunFolder(folder)
    if run.holds_a_run():
        return _open_run(run, device, allow_other_base)
    if (folder / CONFIG).is_file():
        name = read_json(folder / CONFIG).get("base_model_name_or_path")
        if not name:
            raise ValueError(
                f"{folder / CONFIG} does not name its base (base_model_name_or_path); load it in Python with "
                "lorica.load."
            )
        base = load(name, device=device)
        return Opened(
            base, load_adapter(base, folder, allow_other_base=allow_other_base).eval(), "template" in base.hashes
        )
    base = load(path, device=device)
    return Opened(base, None, "template" in base.hashes)


def _open_run(run: RunFolder, device: str, allow_other_base: bool) -> Opened:
    receipt = json.loads(run.receipt.read_text(encoding="utf-8"))
    settings = {key: setting["value"] for key, setting in receipt["settings"].items()}
    conversational = receipt["format"] == "messages"
    dtype, revision = settings["model.dtype"], settings["model.revision"]
    if run.model.is_dir():
        return Opened(load(run.model, dtype=dtype, device=device), None, conversational)
    if not run.adapter.is_dir():
        raise ValueError(f"the run in {run.path} has no adapter yet. Finish it with: lorica train --resume {run.path}")
    base = load(settings["model.path"], dtype=dtype, device=device, revision=revision)
    adapter = load_adapter(base, run.adapter, allow_other_base=allow_other_base)
    return Opened(base, adapter.eval(), conversational)
