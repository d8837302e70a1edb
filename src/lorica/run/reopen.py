"""Runs, adapters and models from their folders, ready to answer."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorica.files import read_json
from lorica.lora import Adapter, load_adapter
from lorica.lora.checkpoint import CONFIG, holds_adapter, packing_of, read_settings
from lorica.models import Base, load
from lorica.training.run_folder import RunFolder


@dataclass
class Opened:
    """`adapter` is None for a model without one; `conversational` says whether prompts go through the chat template,
    with `template_values` beside the messages."""

    base: Base
    adapter: Adapter | None
    conversational: bool
    template_values: dict[str, Any] = field(default_factory=dict)


def read_report(run: str | Path) -> dict[str, Any]:
    """The report of a finished run. Raises ValueError if there is none."""
    folder = RunFolder(run)
    if not folder.report.is_file():
        if not folder.holds_a_run():
            raise ValueError(f"{folder.path} holds no run (no {folder.config.name}).{_best_inside(folder.path)}")
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


def open_for_answers(
    path: str | Path,
    allow_other_base: bool = False,
    base_only: bool = False,
    adapter: Path | None = None,
) -> Opened:
    """Open a run's folder, an adapter's folder (its config names the base), or a model's directory or hub id, if need
    be with an `adapter` on it: PEFT's folder, or a GGUF file of llama.cpp's.

    With `base_only` what a run trained is left out: the base that it began with.

    Raises ValueError if the path is none of them, or its base cannot be loaded or is another one.
    """
    folder = Path(path)
    run = RunFolder(folder)
    if adapter is not None:
        if run.holds_a_run() or holds_adapter(folder):
            raise ValueError(f"{path} holds an adapter of its own; --adapter goes with the model that it belongs to.")
        return _open_adapter(str(path), adapter, allow_other_base, base_only)
    if run.holds_a_run():
        return _open_run(run, allow_other_base, base_only)
    if holds_adapter(folder):
        values = read_settings(folder)
        name, revision = values.get("base_model_name_or_path"), values.get("revision")
        if not name:
            raise ValueError(
                f"{folder / CONFIG} does not name its base (base_model_name_or_path); load it in Python with "
                "lorica.load."
            )
        return _open_adapter(name, folder, allow_other_base, base_only, revision)
    if _best_inside(folder):
        raise ValueError(f"{path} holds no model, adapter or run of its own.{_best_inside(folder)}")
    base = load(path)
    return Opened(base, None, bool(base.tokenizer.chat_template))


def _best_inside(folder: Path) -> str:
    """Where to look in the folder of a sweep."""
    best = RunFolder(folder / "best")
    return f" It is a sweep's; the best run is {best.path}." if best.holds_a_run() else ""


def _open_adapter(
    name: str, path: Path, allow_other_base: bool, base_only: bool, revision: str | None = None
) -> Opened:
    base = load(name, revision=revision, weights=packing_of(path))
    _use_template_of(path, base)
    adapter = None if base_only else load_adapter(base, path, allow_other_base=allow_other_base)
    return Opened(base, adapter, bool(base.tokenizer.chat_template))


def _use_template_of(folder: Path, base: Base) -> None:
    """The chat template saved with what was trained is the one it was trained on; the base's may be another."""
    template = folder / "chat_template.jinja"
    if template.is_file():
        base.tokenizer.chat_template = template.read_text(encoding="utf-8")


def _open_run(run: RunFolder, allow_other_base: bool, base_only: bool) -> Opened:
    receipt = read_json(run.receipt)
    settings = {key: setting["value"] for key, setting in receipt["settings"].items()}
    if not run.report.is_file() and not base_only:
        raise ValueError(f"the run in {run.path} is not finished. Finish it with: lorica train --resume {run.path}")
    whole = settings["method"] == "full"
    if whole and not base_only:
        base = load(run.model, dtype=settings["model.dtype"])
    else:
        name, revision = settings["model.path"], settings["model.revision"]
        base = load(
            name,
            dtype=settings["model.dtype"],
            revision=revision,
            tokenizer=settings.get("model.tokenizer"),
            weights=settings.get("model.weights", "as-is"),
        )
    _use_template_of(run.model if whole else run.adapter, base)
    adapter = None
    if not whole and not base_only:
        adapter = load_adapter(base, run.adapter, allow_other_base=allow_other_base)
    return Opened(base, adapter, receipt["conversational"], settings.get("data.chat_template_kwargs") or {})
