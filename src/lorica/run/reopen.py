"""Runs, adapters and models from their folders, ready to answer."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorica.files import read_json
from lorica.lora import Adapter, load_adapter
from lorica.models import Base, load
from lorica.run.source import Source, is_not, kind_of, open_source
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
            raise ValueError(f"{is_not(run, f'no run (no {folder.config.name})')}.")
        steps = max((record["step"] for record in folder.read_metrics()), default=0)
        raise ValueError(
            f"the run in {folder.path} has no report yet: it stands at step {steps}. Continue it with: lorica "
            f"train --resume {folder.quoted}"
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
    kind = kind_of(path)
    if kind == "sweep":
        raise ValueError(f"{is_not(path, 'no model, adapter or run of its own')}.")
    if kind in ("run", "adapter"):
        if adapter is not None:
            raise ValueError(f"{path} holds an adapter of its own; --adapter goes with the model that it belongs to.")
        source = open_source(path, allow_other_base=allow_other_base, unfinished=base_only)
        return open_trained(source, source.setting("model.dtype") or "auto", base_only=base_only)
    if adapter is not None:
        source = Source(adapter, adapter, False, str(path), allow_other_base=allow_other_base)
        return open_trained(source, "auto", base_only=base_only)
    base = load(path)
    return Opened(base, None, bool(base.tokenizer.chat_template))


def open_trained(source: Source, dtype: str, adapter: Path | None = None, *, base_only: bool = False) -> Opened:
    """The base with what was trained, in a precision (fp32, bf16, auto); with `adapter`, with the one in that folder;
    with `base_only` the base alone.

    Raises ValueError as `lorica.load` and `load_adapter`.
    """
    place = source.trained if source.whole and not base_only else source.base
    base = load(place, dtype=dtype, tokenizer=source.tokenizer, weights=source.packing)
    _use_template_of(source.trained, base)
    found = None
    if not source.whole and not base_only:
        found = load_adapter(base, adapter or source.trained, allow_other_base=source.allow_other_base)
    return _opened(source, base, found)


def open_alone(source: Source, path: Path, dtype: str) -> Opened:
    """The model that was written to `path`, in a precision. Raises ValueError as `lorica.load`."""
    return _opened(source, load(path, dtype=dtype), None)


def _opened(source: Source, base: Base, adapter: Adapter | None) -> Opened:
    if source.receipt is None:
        return Opened(base, adapter, bool(base.tokenizer.chat_template))
    values = source.setting("data.chat_template_kwargs") or {}
    return Opened(base, adapter, source.receipt["conversational"], values)


def _use_template_of(folder: Path, base: Base) -> None:
    """The chat template saved with what was trained is the one it was trained on; the base's may be another."""
    template = folder / "chat_template.jinja"
    if template.is_file():
        base.tokenizer.chat_template = template.read_text(encoding="utf-8")
