"""What is to be exported: a run's adapter, an adapter in PEFT's format, or a fully trained model; and its base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.files import read_json
from lorica.lora.checkpoint import CONFIG, holds_adapter, load_adapter, packing_of, read_settings
from lorica.models import Base, load
from lorica.models.facts import ModelFacts, read_facts
from lorica.models.locate import gguf_file, model_folder
from lorica.run.reopen import Opened
from lorica.training.run_folder import RunFolder


@dataclass(frozen=True)
class Source:
    """`trained` is the adapter's folder or GGUF file, or, where `whole`, the trained model's folder. `base` is a folder
    or a GGUF file, `base_name` what it was asked for by, `run` the run it comes from, if any, and `receipt` that run's
    receipt."""

    path: Path
    trained: Path
    whole: bool
    base: Path
    base_name: str
    revision: str | None = None
    run: RunFolder | None = None
    receipt: dict[str, Any] | None = None
    allow_other_base: bool = False

    @property
    def name(self) -> str:
        """A short name for what is written."""
        folder = self.path.resolve()
        return folder.parent.name if folder.name == "adapter" else folder.name.removesuffix(".gguf")

    @property
    def base_title(self) -> str:
        """What the base is called elsewhere: its hub id, or its own name without the folders of this machine."""
        local = Path(self.base_name).expanduser().exists()
        return self.base.resolve().name if local else self.base_name

    @property
    def tokenizer(self) -> str | None:
        """The folder of the tokenizer that was saved with the training; None for the base's own."""
        return str(self.trained) if (self.trained / "tokenizer.json").is_file() else None

    @property
    def packing(self) -> str:
        """How the run packed its base on loading; what was trained is the adapter on that."""
        if self.whole:
            return "as-is"
        if self.receipt is None:
            return packing_of(self.trained)
        setting = self.receipt["settings"].get("model.weights")
        return "as-is" if setting is None else str(setting["value"])

    @property
    def notes(self) -> list[str]:
        """What to know of the base that the adapter is served beside."""
        packing = "as-is" if self.whole else packing_of(self.trained)
        told = f"the adapter begins with what packing as {packing} lost (loftq): serve it beside a base packed so"
        return [] if packing == "as-is" else [told]

    def facts(self) -> ModelFacts:
        """How the model cuts text and where it stops, without its weights."""
        return read_facts(str(self.base), tokenizer=self.tokenizer)

    def conversational(self, base: Base) -> bool:
        """Whether prompts go through the chat template."""
        return bool(base.tokenizer.chat_template) if self.receipt is None else self.receipt["conversational"]


def open_source(path: str | Path, base: str | Path | None = None, *, allow_other_base: bool = False) -> Source:
    """Find what lies at `path`; `base` says where the base is, if not where it was when the adapter was made. A GGUF
    adapter, which does not know, needs it.

    Raises ValueError for a folder that is neither a run nor an adapter, a run that is not finished, and a base that
    cannot be found.
    """
    folder, run = Path(path), RunFolder(path)
    if folder.is_file():
        if not base:
            raise ValueError(
                f"{folder} is a file, as llama.cpp's adapters are, which do not say which model they belong to; give "
                "that with --base."
            )
        return Source(folder, folder, False, _base_place(str(base), None), str(base))
    if run.holds_a_run():
        return _run_source(run, base, allow_other_base)
    if not holds_adapter(folder):
        what = "does not exist" if not folder.exists() else f"holds neither a run nor an adapter (no {CONFIG})"
        raise ValueError(
            f"{folder} {what}; export takes the folder of a run, that of an adapter in PEFT's format, or llama.cpp's "
            "file of one."
        )
    values = read_settings(folder)
    name = str(base or values.get("base_model_name_or_path") or "")
    if not name:
        raise ValueError(f"{folder / CONFIG} does not name its base (base_model_name_or_path); give it with --base.")
    revision = None if base else values.get("revision")
    return Source(folder, folder, False, _base_place(name, revision), name, revision, allow_other_base=allow_other_base)


def _run_source(run: RunFolder, base: str | Path | None, allow_other_base: bool) -> Source:
    receipt = read_json(run.receipt)
    settings = {key: setting["value"] for key, setting in receipt["settings"].items()}
    whole = settings["method"] == "full"
    trained = run.model if whole else run.adapter
    if not run.report.is_file() or not trained.is_dir():
        raise ValueError(f"the run in {run.path} is not finished. Finish it with: lorica train --resume {run.path}")
    name = str(base or settings["model.path"])
    revision = None if base else settings["model.revision"]
    folder = _base_place(name, revision)
    return Source(run.path, trained, whole, folder, name, revision, run, receipt, allow_other_base)


def _base_place(name: str, revision: str | None) -> Path:
    try:
        return gguf_file(name, revision) or model_folder(name, revision)
    except ValueError as error:
        raise ValueError(f"the base: {error} If it lies elsewhere now, say where with --base.") from None


def open_trained(source: Source, dtype: str, adapter: Path | None = None) -> Opened:
    """The base with what was trained, in a precision (fp32, bf16, auto); with `adapter`, with the one in that folder.

    Raises ValueError as `lorica.load` and `load_adapter`.
    """
    place = source.trained if source.whole else source.base
    base = load(place, dtype=dtype, tokenizer=source.tokenizer, weights=source.packing)
    found = None
    if not source.whole:
        found = load_adapter(base, adapter or source.trained, allow_other_base=source.allow_other_base)
    return Opened(base, found, source.conversational(base))


def open_alone(source: Source, path: Path, dtype: str) -> Opened:
    """The model that was written to `path`, in a precision. Raises ValueError as `lorica.load`."""
    base = load(path, dtype=dtype)
    return Opened(base, None, source.conversational(base))
