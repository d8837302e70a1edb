"""The base's tensors beside what the fine-tune does to them, read from headers: no values are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lorica.exporting.changes import Change, Changes, Trained, read_changes
from lorica.exporting.gguf_form import form_of, gguf_tensors
from lorica.exporting.skeleton import Skeleton
from lorica.gguf.read_config import read_config
from lorica.gguf.split import GgufModel, open_model
from lorica.models import directory
from lorica.models.fingerprint import Progress, hash_gguf, hash_weight_files
from lorica.models.locate import weight_files
from lorica.models.skeleton import empty_model, model_of
from lorica.models.stored import Stored, StoredTensor, stored_tensors
from lorica.quant import bitsandbytes
from lorica.run.source import Source


@dataclass(frozen=True)
class Nf4Tensor:
    """A weight as bitsandbytes stores it, in several `parts`: a `Stored` that reads what they stand for.
    `dtype` is what bitsandbytes unpacks it to."""

    name: str
    shape: list[int]
    dtype: torch.dtype
    parts: dict[str, StoredTensor]

    @property
    def file(self) -> Path:
        return self.parts["weight"].file

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    def read(self) -> Tensor:
        """fp32."""
        packing, packed = bitsandbytes.read({key: part.read() for key, part in self.parts.items()})
        return packing.unpack(packed)


@dataclass(frozen=True)
class Weights:
    """`by_parameter` has the base's tensors by transformers' names, `stored` those of a transformers directory by the
    names in its files, and `file` is a GGUF base. Of a full fine-tune `changes` is empty and `trained` has the trained
    tensors. `fused` are parameters that transformers makes of several tensors."""

    by_parameter: Mapping[str, Stored]
    skeleton: Skeleton
    changes: Changes = field(default_factory=lambda: Changes({}))
    stored: Mapping[str, StoredTensor | Nf4Tensor] = field(default_factory=dict)
    fused: set[str] = field(default_factory=set)
    file: GgufModel | None = None
    trained: dict[str, StoredTensor] | None = None

    def changed(self) -> list[tuple[str, Stored, Change]]:
        """(parameter, the base's tensor, its change) of all that changes; a tied head's tensor is the embedding's.

        Raises ValueError for a change to a parameter that has no tensor of its own in the base's files.
        """
        found = [(parameter, self.tensor_of(parameter), change) for parameter, change in self._all_changes().items()]
        return sorted(found, key=lambda entry: entry[0])

    def _all_changes(self) -> dict[str, Change]:
        if self.trained is None:
            return self.changes.by_parameter
        names, _ = self.skeleton.parameters_of(self.trained)
        return {parameter: Trained(self.trained[name]) for parameter, name in names.items()}

    def tensor_of(self, parameter: str) -> Stored:
        """The base's tensor. Raises ValueError if its files have none that is this parameter and no more."""
        if parameter in self.by_parameter:
            return self.by_parameter[parameter]
        tied = self.changes.tied
        if tied is not None and parameter in tied:
            return self.by_parameter[tied[0] if parameter == tied[1] else tied[1]]
        why = "transformers makes it of several tensors" if parameter in self.fused else "no tensor there becomes it"
        raise ValueError(
            f"{parameter} cannot be exported in the form of the base's files: {why}. Export the adapter instead (--to "
            "peft), or merge in Python (adapter.merge()) and save the model."
        )


def base_weights(base: Path, name: str, progress: Progress | None = None) -> Weights:
    """A base without changes: a transformers directory, or a GGUF file.

    Raises ValueError for damaged files, and a config or an architecture that cannot be read.
    """
    if base.is_file():
        file = open_model(base)
        config = read_config(file.metadata, file.tensors, file.values)
        bones = Skeleton(empty_model(config, torch.float32), name, {"base": hash_gguf(file, progress)})
        return Weights(gguf_tensors(form_of(config, file), bones.model), bones, file=file)
    files = weight_files(base)
    stored = _with_packed_whole(stored_tensors(files))
    model = model_of(stored, directory.read_config(base), torch.float32)
    bones = Skeleton(model, name, {"base": hash_weight_files(files, progress)})
    names, fused = bones.parameters_of(stored)
    by_parameter: dict[str, Stored] = {parameter: stored[tensor] for parameter, tensor in names.items()}
    return Weights(by_parameter, bones, stored=stored, fused=fused)


def _with_packed_whole(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor | Nf4Tensor]:
    """`stored` with one tensor for the several that bitsandbytes makes of a weight."""
    found: dict[str, StoredTensor | Nf4Tensor] = dict(stored)
    for state in (name for name in stored if name.endswith(bitsandbytes.STATE)):
        module = state.removesuffix(bitsandbytes.STATE)
        names = [name for name in stored if name.startswith(f"{module}weight")]
        parts = {name.removeprefix(module): stored[name] for name in names}
        try:
            shape, dtype = bitsandbytes.shape_and_dtype(stored[state].read())
        except ValueError as error:
            raise ValueError(f"{stored[state].file}: {module[:-1]} cannot be read: {error}") from None
        for name in names:
            del found[name]
        found[f"{module}weight"] = Nf4Tensor(f"{module}weight", shape, dtype, parts)
    return found


def read_weights_of(source: Source, progress: Progress | None = None) -> Weights:
    """The base of `source` with its changes.

    Raises ValueError as `base_weights`, for another base than the one that was trained on, and for an adapter that does
    not fit it or holds a copy of other weights than the base's.
    """
    base = base_weights(source.base, source.base_name, progress)
    if source.whole:
        _check_base_of_run(source, base.skeleton)
        return replace(base, trained=stored_tensors(weight_files(source.trained)))
    changes = read_changes(base.skeleton, source.trained, allow_other_base=source.allow_other_base)
    weights = replace(base, changes=changes)
    for name, copied in changes.copies.items():
        if not torch.equal(weights.tensor_of(name).read().float(), copied.float()):
            raise ValueError(
                f"the adapter holds a copy of {name} that is not what this base has: it was made on another base, or "
                "with resized embeddings. Export it on the base it was made on."
            )
    return weights


def _check_base_of_run(source: Source, bones: Skeleton) -> None:
    assert source.receipt is not None
    wanted, found = source.receipt["base"]["base"], bones.hashes["base"]
    if wanted != found and not source.allow_other_base:
        raise ValueError(
            f"the run in {source.path} began with a base whose weights hash to {wanted[:12]}, but {source.base} hashes "
            f"to {found[:12]}. Give the base it began with (--base), or pass --allow-other-base."
        )
