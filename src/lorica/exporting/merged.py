"""The merged model as a directory of transformers': the base's files with the changed weights in them.

Shard by shard and tensor by tensor: a sum is formed in fp32 and rounded once to the type that the base stores; what
the fine-tune leaves alone is copied bit for bit. Names, sharding and all other files are the base's, tokenizer and
template those of the training.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorica.exporting.changes import Change
from lorica.exporting.options import Options
from lorica.exporting.output import MARK, check_space
from lorica.exporting.weights import Nf4Tensor, Weights
from lorica.exporting.written import Written, WrittenWeight
from lorica.files import lazy_safetensors_pieces, read_json, write_atomically, write_json
from lorica.lora.checkpoint import CONFIG
from lorica.models.fingerprint import Progress
from lorica.models.locate import weight_files
from lorica.models.stored import StoredTensor, stored_tensors
from lorica.run.reopen import open_alone
from lorica.run.source import Source

INDEX = "model.safetensors.index.json"
COPIED = ("*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*")
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Output:
    """A tensor to write: `stored`, changed if there is a change, as `dtype`."""

    name: str
    stored: StoredTensor | Nf4Tensor
    change: Change | None
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.stored.numel * self.dtype.itemsize

    def make(self) -> Tensor:
        """The tensor, or ValueError if it is not finite in its type."""
        tensor = self.stored.read()
        if self.change is not None:
            tensor = self.change.apply(tensor.float())
        made = tensor.to(self.dtype)
        if not torch.isfinite(made).all():
            raise ValueError(f"{self.name} would hold NaN or infinite values as {self.dtype}; nothing was written.")
        return made


def write_merged(
    source: Source, weights: Weights, folder: Path, options: Options, progress: Progress | None = None
) -> Written:
    """Write the merged model into `folder`. A type (F32, F16, BF16) changes the precision of all its weights; without
    one they keep what the base stores.

    Raises ValueError for a change that has no tensor to go to, weights that are not finite, a full disk.
    """
    if weights.file is not None:
        raise ValueError(
            f"the base {source.base_name} is a GGUF file, of which no transformers directory is made; use --to gguf."
        )
    dtype = TYPES[options.type] if options.type else None
    files = planned(weights, dtype)
    check_space(folder, sum(output.bytes for outputs in files.values() for output in outputs))
    _write_files(folder, files, progress)
    _write_index(folder, files)
    _copy_the_rest(source, folder)
    untied = weights.changes.tied if weights.changes.untie else None
    _write_config(folder, untied is not None, dtype)
    rounded = any(output.dtype != torch.float32 for outputs in files.values() for output in outputs if output.change)
    return Written(
        sorted(folder.iterdir()),
        lambda: _compared(folder, weights),
        lambda dtype: open_alone(source, folder, dtype),
        exact=not rounded and weights.trained is None and source.packing == "as-is",
        notes=_notes(weights, untied),
    )


def _notes(weights: Weights, untied: tuple[str, str] | None) -> list[str]:
    notes = [f"{untied[1]} has a weight of its own: the fine-tune took the tied pair apart"] if untied else []
    unpacked = sum(isinstance(stored, Nf4Tensor) for stored in weights.stored.values())
    if unpacked:
        notes.append(f"{unpacked} tensors that bitsandbytes packed are written unpacked, as large as a dense model's")
    return notes


def _write_files(folder: Path, files: dict[str, list[Output]], progress: Progress | None) -> None:
    total, done = sum(len(outputs) for outputs in files.values()), 0
    for name, outputs in files.items():
        by_name = {output.name: output for output in outputs}

        def make(tensor: str, by_name: dict[str, Output] = by_name) -> Tensor:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)
            return by_name[tensor].make()

        layout = {output.name: (output.dtype, output.stored.shape) for output in outputs}
        write_atomically(folder / name, lazy_safetensors_pieces(layout, make, {"format": "pt"}))


def planned(weights: Weights, dtype: torch.dtype | None) -> dict[str, list[Output]]:
    """The tensors of every file to be written; `dtype` is None for the types that the base stores."""
    files: dict[str, list[Output]] = {}
    for output in _whole(weights, dtype) if weights.trained is not None else _merged(weights, dtype):
        files.setdefault(output.stored.file.name, []).append(output)
    return files


def _whole(weights: Weights, dtype: torch.dtype | None) -> Iterator[Output]:
    assert weights.trained is not None
    common = max(weights.stored.values(), key=lambda stored: stored.numel).dtype
    for name, trained in weights.trained.items():
        of_base = weights.stored[name].dtype if name in weights.stored else common
        yield Output(name, trained, None, _dtype(trained, dtype or of_base))


def _merged(weights: Weights, dtype: torch.dtype | None) -> Iterator[Output]:
    changed = {parameter: (stored, change) for parameter, stored, change in weights.changed()}
    tied = weights.changes.tied
    if tied is not None and not weights.changes.untie and tied[0] in changed:
        changed[tied[1]] = changed[tied[0]]  # files may hold a copy of the one weight for each of its names
    in_file = {stored.name: parameter for parameter, stored in weights.by_parameter.items()}
    for name, stored in weights.stored.items():
        _, change = changed.get(in_file.get(name, ""), (stored, None))
        yield Output(name, stored, change, _dtype(stored, dtype))
    if tied is not None and weights.changes.untie:
        for parameter in {*tied} - weights.by_parameter.keys():
            of_other, change = changed[parameter]
            stored = weights.stored[of_other.name]
            yield Output(parameter, stored, change, _dtype(stored, dtype))


def _dtype(stored: StoredTensor | Nf4Tensor, wanted: torch.dtype | None) -> torch.dtype:
    return wanted if wanted is not None and stored.dtype.is_floating_point else stored.dtype


def _write_index(folder: Path, files: dict[str, list[Output]]) -> None:
    if list(files) == ["model.safetensors"]:
        return
    outputs = [(output, file) for file, outputs in files.items() for output in outputs]
    total = sum(output.bytes for output, _ in outputs)
    write_json(
        folder / INDEX,
        {"metadata": {"total_size": total}, "weight_map": {output.name: file for output, file in outputs}},
    )


def _copy_the_rest(source: Source, folder: Path) -> None:
    """Config, tokenizer, template and licence: the base's, and over them what was saved with the training."""
    of_the_base = {INDEX, MARK, CONFIG}
    of_the_model = {*of_the_base, "config.json", "generation_config.json"}
    for origin, left_out in ((source.base, of_the_base), (source.trained, of_the_model)):
        for path in sorted({path for pattern in COPIED for path in origin.glob(pattern)}):
            if path.is_file() and path.name not in left_out:
                shutil.copyfile(path, folder / path.name)


def _write_config(folder: Path, untied: bool, dtype: torch.dtype | None) -> None:
    """The base's config, but for what the merge changed about it."""
    config = read_json(folder / "config.json")
    places = [config, *(value for value in config.values() if isinstance(value, dict))]
    for place in places:
        place.pop("quantization_config", None)
    if untied:
        config["tie_word_embeddings"] = False
        for place in places:
            if "tie_word_embeddings" in place:
                place["tie_word_embeddings"] = False
    if dtype is not None:
        for place in places:
            for key in ("dtype", "torch_dtype"):
                if key in place:
                    place[key] = str(dtype).removeprefix("torch.")
    write_json(folder / "config.json", config)


def _compared(folder: Path, weights: Weights) -> Iterator[WrittenWeight]:
    written = stored_tensors(weight_files(folder))
    for parameter, stored, change in weights.changed():
        of_base = weights.by_parameter.get(parameter)
        exported = written[parameter if of_base is None else of_base.name]
        base = stored.read()
        yield WrittenWeight(
            parameter,
            str(exported.dtype).removeprefix("torch."),
            base.float(),
            change.apply(base.float()),
            base.to(exported.dtype).float(),
            exported.read().float(),
        )
