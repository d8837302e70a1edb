"""Export what a run trained, and prove that what was written computes it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorica.exporting.card import write_card
from lorica.exporting.merged import TYPES, write_merged
from lorica.exporting.output import MARK, check_output, written_aside
from lorica.exporting.peft_folder import write_peft
from lorica.exporting.proof import Proof, prove
from lorica.exporting.source import Source, Weights, open_source, read_weights_of
from lorica.exporting.written import Written
from lorica.files import write_json
from lorica.run.watch import Watcher

TARGETS = ("peft", "merged")
PEFT_USE = "Load it with PEFT: `PeftModel.from_pretrained(base, PATH)`, or in Lorica: `lorica chat PATH`."
MERGED_USE = (
    "Load it with transformers: `AutoModelForCausalLM.from_pretrained(PATH)`, or in Lorica: `lorica chat PATH`."
)


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
    base: str | Path | None = None,
    proof: bool = True,
    overwrite: bool = False,
    allow_other_base: bool = False,
    watcher: Watcher | None = None,
) -> ExportResult:
    """Write the run or adapter at `path` for others to serve, `to`: peft or merged.

    `type` is the precision of a merged model (F32, F16, BF16; default: the base's own), `profile` the reader that a
    peft adapter is shaped for (vllm), `base` where the base is, if not where it was. The folder `out` (default: below
    the run) is whole or not there. The proof is run unless `proof` is false.

    Raises ValueError for a wrong combination, another base, damaged or missing files, a full disk, and what the target
    cannot hold, naming the alternative.
    """
    watcher = watcher or Watcher()
    _check(to, type, profile)
    source = open_source(path, base, allow_other_base=allow_other_base)
    folder = Path(out) if out is not None else _default_folder(source, to, profile or type)
    check_output(folder, overwrite)
    weights = read_weights_of(source, lambda done, total: watcher.stage("hashing the base", done, total))
    for note in weights.changes.notes:
        watcher.notice(note)
    with written_aside(folder, overwrite) as aside:
        written = _writer(source, weights, to, type, profile, watcher)(aside)
        found = prove(source, written, watcher) if proof else None
        files = sorted([*(file.name for file in written.files), "README.md", MARK])
        write_card(source, aside, PEFT_USE if to == "peft" else MERGED_USE, "peft" if to == "peft" else "transformers")
        result = ExportResult(str(folder), to, files, found, written.notes)
        write_json(aside / MARK, result.to_dict())
    return result


def _check(to: str, type_name: str | None, profile: str | None) -> None:
    if to not in TARGETS:
        raise ValueError(f'"{to}" is nothing that can be exported to; choose {", ".join(TARGETS)}.')
    if profile is not None and to != "peft":
        raise ValueError(f"a profile shapes a peft adapter; --to {to} has none.")
    if type_name is not None and (to != "merged" or type_name.upper() not in TYPES):
        allowed = f"one of {', '.join(TYPES)}" if to == "merged" else "none: an adapter is written as it was trained"
        raise ValueError(f"the type for --to {to} is {allowed}; got {type_name}.")


def _default_folder(source: Source, to: str, kind: str | None) -> Path:
    name = to if kind is None else f"{to}-{kind.lower()}"
    return source.run.path / "exports" / name if source.run is not None else Path(f"{source.trained}-{name}")


def _writer(
    source: Source, weights: Weights, to: str, type_name: str | None, profile: str | None, watcher: Watcher
) -> Callable[[Path], Written]:
    if to == "peft":
        return lambda folder: write_peft(source, weights, folder, profile)
    wanted = type_name.upper() if type_name else None

    def tell(done: int, total: int) -> None:
        watcher.stage("merging", done, total)

    return lambda folder: write_merged(source, weights, folder, wanted, tell)
