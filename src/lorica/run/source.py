"""What lies at a path; and of a run or an adapter, what was trained, and its base."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lorica.files import read_json
from lorica.lora.checkpoint import CONFIG, holds_adapter, packing_of, read_settings
from lorica.models.facts import ModelFacts, read_facts
from lorica.models.locate import gguf_file, model_folder
from lorica.training.run_folder import RunFolder

Kind = Literal["file", "run", "adapter", "model", "sweep", "nothing"]


def kind_of(path: str | Path) -> Kind:
    """A file may be a GGUF model or adapter, and "nothing" a hub id."""
    folder = Path(path)
    if folder.is_file():
        return "file"
    if RunFolder(folder).holds_a_run():
        return "run"
    if holds_adapter(folder):
        return "adapter"
    if (folder / "config.json").is_file():
        return "model"
    return "sweep" if RunFolder(folder / "best").holds_a_run() else "nothing"


def is_not(path: str | Path, wanted: str) -> str:
    """Says that `path` is none of what was wanted; of a sweep's folder, where its best run is."""
    folder = Path(path)
    if not folder.exists():
        return f"{path} does not exist"
    best = f" It is a sweep's; the best run is {folder / 'best'}." if kind_of(folder) == "sweep" else ""
    return f"{path} holds {wanted}.{best}".removesuffix(".")


@dataclass(frozen=True)
class Source:
    """`trained` is the adapter's folder or GGUF file, or, where `whole`, the trained model's folder. `base_name` is
    what the base was asked for by, `run` the run it comes from, if any, and `receipt` that run's receipt."""

    path: Path
    trained: Path
    whole: bool
    base_name: str
    revision: str | None = None
    run: RunFolder | None = None
    receipt: dict[str, Any] | None = None
    allow_other_base: bool = False

    @cached_property
    def base(self) -> Path:
        """The base's folder or GGUF file. Raises ValueError if it cannot be found."""
        try:
            return gguf_file(self.base_name, self.revision) or model_folder(self.base_name, self.revision)
        except ValueError as error:
            raise ValueError(
                f"the base: {error} If it lies elsewhere now, say where with --base, or for an answer give it as the "
                f"model, with --adapter {self.trained}."
            ) from None

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
        """The folder of the tokenizer that was saved with the training, or that it was to be read from; None for the
        base's own."""
        saved = (self.trained / "tokenizer.json").is_file()
        return str(self.trained) if saved else self.setting("model.tokenizer")

    @property
    def packing(self) -> str:
        """How the base was packed on loading; what was trained is the adapter on that."""
        if self.whole:
            return "as-is"
        return packing_of(self.trained) if self.receipt is None else self.setting("model.weights") or "as-is"

    @property
    def notes(self) -> list[str]:
        """What to know of the base that the adapter is served beside."""
        packing = "as-is" if self.whole else packing_of(self.trained)
        told = f"the adapter begins with what packing as {packing} lost (loftq): serve it beside a base packed so"
        return [] if packing == "as-is" else [told]

    def setting(self, key: str) -> Any:
        """Of the run; None without one, and for a setting that it did not know."""
        return None if self.receipt is None else self.receipt["settings"].get(key, {}).get("value")

    def facts(self) -> ModelFacts:
        """How the model cuts text and where it stops, without its weights."""
        return read_facts(str(self.base), tokenizer=self.tokenizer)


def open_source(
    path: str | Path, base: str | Path | None = None, *, allow_other_base: bool = False, unfinished: bool = False
) -> Source:
    """Find what was trained at `path`; `base` says where the base is, if not where it was when the adapter was made. A
    GGUF adapter, which does not know, needs it.

    Raises ValueError for a folder that is neither a run nor an adapter, and a run that is not finished, unless
    `unfinished`.
    """
    folder, kind = Path(path), kind_of(path)
    if kind == "run":
        return _run_source(RunFolder(path), base, allow_other_base, unfinished)
    if kind == "file":
        name, revision = base, None
    elif kind == "adapter":
        values = read_settings(folder)
        name, revision = base or values.get("base_model_name_or_path"), None if base else values.get("revision")
    else:
        raise ValueError(
            f"{is_not(path, f'neither a run nor an adapter (no {CONFIG})')}; expected the folder of a run, that of an "
            "adapter in PEFT's format, or llama.cpp's file of one."
        )
    if not name:
        raise ValueError(
            f"{folder} does not say which model it belongs to; give that with --base, or for an answer as the model, "
            f"with --adapter {folder}."
        )
    return Source(folder, folder, False, str(name), revision, allow_other_base=allow_other_base)


def _run_source(run: RunFolder, base: str | Path | None, allow_other_base: bool, unfinished: bool) -> Source:
    receipt = read_json(run.receipt)
    settings = {key: setting["value"] for key, setting in receipt["settings"].items()}
    whole = settings["method"] == "full"
    trained = run.model if whole else run.adapter
    if not unfinished and not (run.report.is_file() and trained.is_dir()):
        raise ValueError(f"the run in {run.path} is not finished. Finish it with: lorica train --resume {run.quoted}")
    name = str(base or settings["model.path"])
    revision = None if base else settings["model.revision"]
    return Source(run.path, trained, whole, name, revision, run, receipt, allow_other_base)
