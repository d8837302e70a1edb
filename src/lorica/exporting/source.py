"""What is to be exported: a run's adapter, an adapter in PEFT's format, or a fully trained model; and its base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.exporting.changes import Change, Changes, Trained, read_changes
from lorica.exporting.skeleton import Skeleton, skeleton
from lorica.exporting.stored import StoredTensor, stored_tensors
from lorica.files import read_json
from lorica.lora.checkpoint import CONFIG, load_adapter
from lorica.models import Base, load
from lorica.models.fingerprint import Progress, hash_weight_files
from lorica.models.locate import model_folder, weight_files
from lorica.run.reopen import Opened
from lorica.training.run_folder import RunFolder


@dataclass(frozen=True)
class Source:
    """`trained` is the adapter's folder, or, where `whole`, the trained model's. `base_name` is what the base was
    asked for by, `run` the run it comes from, if any, and `receipt` that run's receipt."""

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
        return folder.parent.name if folder.name == "adapter" else folder.name

    def conversational(self, base: Base) -> bool:
        """Whether prompts go through the chat template."""
        return bool(base.tokenizer.chat_template) if self.receipt is None else self.receipt["conversational"]


def open_source(path: str | Path, base: str | Path | None = None, *, allow_other_base: bool = False) -> Source:
    """Find what lies at `path`; `base` says where the base is, if not where it was when the adapter was made.

    Raises ValueError for a folder that is neither a run nor an adapter, a run that is not finished, and a base that
    cannot be found.
    """
    folder, run = Path(path), RunFolder(path)
    if run.holds_a_run():
        return _run_source(run, base, allow_other_base)
    if not (folder / CONFIG).is_file():
        what = "does not exist" if not folder.exists() else f"holds neither a run nor an adapter (no {CONFIG})"
        raise ValueError(f"{folder} {what}; export takes the folder of a run, or of an adapter in PEFT's format.")
    values = read_json(folder / CONFIG)
    name = str(base or values.get("base_model_name_or_path") or "")
    if not name:
        raise ValueError(f"{folder / CONFIG} does not name its base (base_model_name_or_path); give it with --base.")
    revision = None if base else values.get("revision")
    return Source(
        folder, folder, False, _base_folder(name, revision), name, revision, allow_other_base=allow_other_base
    )


def _run_source(run: RunFolder, base: str | Path | None, allow_other_base: bool) -> Source:
    receipt = read_json(run.receipt)
    settings = {key: setting["value"] for key, setting in receipt["settings"].items()}
    whole = settings["method"] == "full"
    trained = run.model if whole else run.adapter
    if not run.report.is_file() or not trained.is_dir():
        raise ValueError(f"the run in {run.path} is not finished. Finish it with: lorica train --resume {run.path}")
    name = str(base or settings["model.path"])
    revision = None if base else settings["model.revision"]
    folder = _base_folder(name, revision)
    return Source(run.path, trained, whole, folder, name, revision, run, receipt, allow_other_base)


def _base_folder(name: str, revision: str | None) -> Path:
    try:
        return model_folder(name, revision)
    except ValueError as error:
        raise ValueError(f"the base: {error} If it lies elsewhere now, say where with --base.") from None


@dataclass(frozen=True)
class Weights:
    """The base's tensors by the names of its files, what transformers calls them (`names`, parameter to tensor), and
    what changes about them. Of a full fine-tune `changes` is empty and `trained` has the trained tensors. `fused` are
    parameters that transformers makes of several tensors."""

    stored: dict[str, StoredTensor]
    names: dict[str, str]
    fused: set[str]
    skeleton: Skeleton
    changes: Changes
    trained: dict[str, StoredTensor] | None = None

    def changed(self) -> list[tuple[str, StoredTensor, Change]]:
        """(parameter, the base's tensor, its change) of all that changes; a tied head's tensor is the embedding's.

        Raises ValueError for a change to a parameter that has no tensor of its own in the base's files.
        """
        found = [(parameter, self._tensor_of(parameter), change) for parameter, change in self._all_changes().items()]
        return sorted(found, key=lambda entry: entry[0])

    def _all_changes(self) -> dict[str, Change]:
        if self.trained is None:
            return self.changes.by_parameter
        names, _ = self.skeleton.parameters_of(self.trained)
        return {parameter: Trained(self.trained[name]) for parameter, name in names.items()}

    def _tensor_of(self, parameter: str) -> StoredTensor:
        if parameter in self.names:
            return self.stored[self.names[parameter]]
        tied = self.changes.tied
        if tied is not None and parameter in tied:
            other = tied[0] if parameter == tied[1] else tied[1]
            return self.stored[self.names[other]]
        why = "transformers makes it of several tensors" if parameter in self.fused else "no tensor there becomes it"
        raise ValueError(
            f"the fine-tune changes {parameter}, which cannot be written into the base's files: {why}. Export the "
            "adapter instead (--to peft), or merge in Python (adapter.merge()) and save the model."
        )


def read_weights_of(source: Source, progress: Progress | None = None) -> Weights:
    """Headers of the base's files, and the adapter.

    Raises ValueError for damaged files, another base than the one that was trained on, and an adapter that does not
    fit it.
    """
    files = weight_files(source.base)
    stored = stored_tensors(files)
    bones = skeleton(source.base, source.base_name, hash_weight_files(files, progress))
    names, fused = bones.parameters_of(stored)
    if source.whole:
        _check_base_of_run(source, bones)
        trained = stored_tensors(weight_files(source.trained))
        return Weights(stored, names, fused, bones, Changes({}), trained)
    changes = read_changes(bones, source.trained, allow_other_base=source.allow_other_base)
    return Weights(stored, names, fused, bones, changes)


def _check_base_of_run(source: Source, bones: Skeleton) -> None:
    assert source.receipt is not None
    wanted, found = source.receipt["base"]["base"], bones.hashes["base"]
    if wanted != found and not source.allow_other_base:
        raise ValueError(
            f"the run in {source.path} began with a base whose weights hash to {wanted[:12]}, but {source.base} hashes "
            f"to {found[:12]}. Give the base it began with (--base), or pass --allow-other-base."
        )


def open_trained(source: Source, dtype: str, adapter: Path | None = None) -> Opened:
    """The base with what was trained, in a precision (fp32, bf16, auto); with `adapter`, with the one in that folder.

    Raises ValueError as `lorica.load` and `load_adapter`.
    """
    base = load(source.trained if source.whole else source.base, dtype=dtype)
    template = source.trained / "chat_template.jinja"
    if template.is_file():
        base.tokenizer.chat_template = template.read_text(encoding="utf-8")
    found = None
    if not source.whole:
        found = load_adapter(base, adapter or source.trained, allow_other_base=source.allow_other_base).eval()
    return Opened(base, found, source.conversational(base))
