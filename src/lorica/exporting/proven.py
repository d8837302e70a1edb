"""Export what a run trained, and prove that what was written computes it."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lorica.exporting.card import write_card
from lorica.exporting.options import Options
from lorica.exporting.output import MARK, check_output, written_aside
from lorica.exporting.proof import Proof, prove
from lorica.exporting.targets import TARGETS, checked
from lorica.exporting.weights import read_weights_of
from lorica.files import write_json
from lorica.run.source import Source, open_source
from lorica.run.watch import Watcher


@dataclass(frozen=True)
class ExportResult:
    """`path` is the folder, `files` what is in it. `proof` is None if it was refused. `ok` is false where the proof
    found the fine-tune mostly lost."""

    path: str
    to: str
    files: list[str]
    proof: Proof | None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.proof is None or self.proof.ok

    def to_dict(self) -> dict[str, Any]:
        proof = self.proof.to_dict() if self.proof is not None else None
        return {**vars(self), "proof": proof, "ok": self.ok}


def export(
    path: str | Path,
    to: str,
    *,
    out: str | Path | None = None,
    type: str | None = None,
    profile: str | None = None,
    imatrix: str | Path | None = None,
    base: str | Path | None = None,
    proof: bool = True,
    overwrite: bool = False,
    allow_other_base: bool = False,
    watcher: Watcher | None = None,
) -> ExportResult:
    """Write the run or adapter at `path` (of llama.cpp's, with its `base`) for others to serve, `to`: peft, merged,
    gguf-adapter, gguf or ollama.

    `type` is the precision (merged, gguf-adapter) or llama.cpp's type (gguf, ollama), `profile` the reader that a peft
    adapter is shaped for (vllm), `imatrix` a file of importances for packing, `base` where the base is, if not where it
    was. The folder `out` (default: below the run) is whole or not there. The proof is run unless `proof` is false.

    Raises ValueError for a wrong combination, another base, damaged or missing files, a full disk, and what the target
    cannot hold, naming the alternative.
    """
    watcher = watcher or Watcher()
    options = checked(Options(to, type, profile, imatrix))
    source = open_source(path, base, allow_other_base=allow_other_base)
    folder = Path(out) if out is not None else _default_folder(source, options)
    check_output(folder, overwrite)
    weights = read_weights_of(source, partial(watcher.stage, "hashing the base"))
    for note in weights.changes.notes:
        watcher.notice(note)
    target = TARGETS[to]
    with written_aside(folder, overwrite) as aside:
        written = target.write(source, weights, aside, options, partial(watcher.stage, "writing tensors"))
        found = prove(source, weights, written, watcher) if proof else None
        write_card(source, aside, target.use, target.library)
        files = sorted([*(file.name for file in written.files), "README.md", MARK])
        result = ExportResult(str(folder), to, files, found, [*written.notes, *_packed_base(source, to)])
        write_json(aside / MARK, result.to_dict())
    return result


def _packed_base(source: Source, to: str) -> list[str]:
    """What an adapter that was trained on a packed base does not know about the stored one."""
    if source.packing == "as-is" or to in ("peft", "gguf-adapter"):
        return []
    weights = "the adapted weights as they were packed (loftq)" if source.notes else "the base as it is stored"
    return [
        f"the run trained on the base packed as {source.packing}, and is merged into {weights}; the proof compares "
        "with what was trained"
    ]


def _default_folder(source: Source, options: Options) -> Path:
    if source.run is not None:
        return source.run.path / "exports" / options.folder
    beside = source.trained if source.trained.name not in ("", "..") else source.trained.resolve()
    return beside.with_name(f"{beside.name.removesuffix('.gguf')}-{options.folder}")
