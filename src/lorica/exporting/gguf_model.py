"""A model as one GGUF file: merged, and packed with llama.cpp's mixtures.

From a transformers directory every tensor is packed by the mixture's rules. From a GGUF base the tensors that the
fine-tune leaves alone are copied byte for byte (packing them again would add to their error), the changed ones are
written in a type that holds the change, and metadata and tokenizer are the base's.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorica.exporting.changes import Change
from lorica.exporting.gguf_form import Errors, FileTensor, Form, GgufTensor, form_of
from lorica.exporting.gguf_metadata import model_metadata
from lorica.exporting.output import check_space
from lorica.exporting.source import Source
from lorica.exporting.stored import Stored
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written, WrittenWeight
from lorica.gguf.architectures import Place
from lorica.gguf.split import GgufModel, open_model
from lorica.gguf.types import named
from lorica.gguf.write import Part, write
from lorica.models import load
from lorica.models.fingerprint import Progress
from lorica.quant import codec, fallback
from lorica.quant.mixtures import MIXTURES, Model, is_packed, tensor_types, wanted_types
from lorica.run.reopen import Opened

FILE = "model.gguf"
SAMPLED_ROWS = 512  # of each changed weight, to see what of the change is left
DENSE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
Importances = Mapping[str, Tensor]


def write_gguf(
    source: Source,
    weights: Weights,
    folder: Path,
    mixture: str,
    importances: Importances | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write `model.gguf` into `folder`. `mixture` names the file's type; from a GGUF base, that of the changed tensors.

    Raises ValueError for an architecture or tokenizer that has no GGUF form, changes that it cannot hold, weights that
    are not finite, a full disk.
    """
    form = form_of(weights.skeleton.model.config, weights.file)
    importances = importances or {}
    if weights.file is not None:
        tensors, types, notes = _onto_gguf(weights, form, mixture)
        metadata = dict(weights.file.metadata)
    else:
        tensors = converted(weights, form)
        types, notes = choose_types(tensors, mixture, model_of(form, weights), bool(importances))
        metadata, more = model_metadata(source, weights, form, mixture)
        tensors += more
    check_space(folder, sum(named(types[tensor.name]).size(tensor.shape[::-1], tensor.name) for tensor in tensors))
    write(folder / FILE, metadata, list(told(parts(tensors, types, importances), progress)))
    return Written(
        [folder / FILE],
        lambda: _compared(folder / FILE, weights, form, importances),
        lambda dtype: _reopened(source, folder / FILE, dtype),
        exact=mixture == "F32" and weights.trained is None,
        notes=notes,
    )


def parts(
    tensors: list[FileTensor], types: Mapping[str, str], importances: Importances, errors: Errors | None = None
) -> list[Part]:
    """The tensors in their types, largest work last to be seen by nobody: in the file's order."""
    return [tensor.part(types[tensor.name], importances.get(tensor.name), errors) for tensor in tensors]


def told(made: list[Part], progress: Progress | None) -> Iterator[Part]:
    """The parts, each telling `progress` when its turn comes."""
    for done, part in enumerate(made, 1):

        def data(part: Part = part, done: int = done) -> object:
            if progress is not None:
                progress(done, len(made))
            return part.data()

        yield Part(part.name, part.type, part.shape, data)  # type: ignore[arg-type]


def model_of(form: Form, weights: Weights) -> Model:
    """What the mixtures' rules look at."""
    config = form.config
    layers, heads, key_heads = config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads
    seventy = layers == 80 and heads != key_heads and form.architecture.name in ("llama", "qwen2")
    return Model(layers, heads, key_heads, seventy=seventy)


def choose_types(
    tensors: list[FileTensor], mixture: str, model: Model, imatrix: bool
) -> tuple[dict[str, str], list[str]]:
    """The type of every tensor, and a line about those that the mixture's own types do not fit."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    types = tensor_types(mixture, shapes, model, imatrix)
    wanted = wanted_types(mixture, shapes, model, imatrix)
    replaced: dict[tuple[str, str], int] = {}
    for name, found in types.items():
        if found != wanted[name]:
            replaced[wanted[name], found] = replaced.get((wanted[name], found), 0) + 1
    notes = [
        f"{count} tensors are {found} instead of {asked}: their rows are no multiple of {codec(asked).block_length}"
        for (asked, found), count in replaced.items()
    ]
    return {tensor.name: types.get(tensor.name, tensor.type) for tensor in tensors}, notes


def converted(weights: Weights, form: Form) -> list[FileTensor]:
    """The tensors of a transformers model with all changes, in the file's form: vectors in fp32, others as stored."""
    changed = {parameter: (stored, change) for parameter, stored, change in weights.changed()}
    names = dict(weights.skeleton.model.named_parameters())  # a tied head once, as the embedding
    wanted = [*names, *(changed.keys() - names.keys())]
    if weights.changes.untie:
        _check_untying(form)
    found = []
    for parameter in wanted:
        stored, change = changed.get(parameter) or (weights.tensor_of(parameter), None)
        found.append(_file_tensor(form.place(parameter), stored, change))
    return found


def _check_untying(form: Form) -> None:
    if form.architecture.always_tied:
        raise ValueError(
            f"llama.cpp's {form.architecture.name} has one weight for embedding and head, and the fine-tune made them "
            "two. Use --to merged."
        )


def _file_tensor(place: Place, stored: Stored, change: Change | None) -> FileTensor:
    vector = len(stored.shape) == 1

    def values() -> Tensor:
        tensor = stored.read()
        if change is not None or vector:
            tensor = tensor.float()
        if change is not None:
            tensor = _finite(change.apply(tensor), stored.name)
        return place.to_file(tensor + place.shift if place.shift else tensor)

    own = "F32" if vector or change is not None else DENSE.get(stored.dtype, "F32")
    return FileTensor(place.tensor, tuple(stored.shape), own, values)


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise ValueError(f"merging gives NaN or infinite values in {name}; nothing was written.")
    return tensor


def verbatim(file: GgufModel, name: str) -> FileTensor:
    """A tensor of a GGUF file as it is."""
    info = file.tensors[name]
    return FileTensor(name, info.shape, info.type.name, lambda: file.values(name), lambda: file.data(name))


def _onto_gguf(weights: Weights, form: Form, mixture: str) -> tuple[list[FileTensor], dict[str, str], list[str]]:
    file = weights.file
    assert file is not None
    changes: dict[str, list[tuple[Place, Change]]] = {}
    extra = []
    for parameter, stored, change in weights.changed():
        place = form.place(parameter)
        if place.tensor in file.tensors:
            changes.setdefault(place.tensor, []).append((place, change))
        else:
            _check_untying(form)
            extra.append(_file_tensor(place, stored, change))
    tensors = [
        _changed(file, name, changes[name]) if name in changes else verbatim(file, name) for name in file.tensors
    ]
    types = {}
    for tensor in [*tensors, *extra]:
        keeps = tensor.verbatim is not None or tensor.type in DENSE.values() or not is_packed(tensor.name, tensor.shape)
        types[tensor.name] = tensor.type if keeps else fallback(MIXTURES[mixture][1], tensor.shape[-1])
    written = sorted({types[name] for name in changes})
    notes = [
        f"{len(changes)} changed tensors are written as {', '.join(written)}, {len(tensors) - len(changes)} are the "
        "base's, byte for byte"
    ]
    return [*tensors, *extra], types, notes


def _changed(file: GgufModel, name: str, changes: list[tuple[Place, Change]]) -> FileTensor:
    info = file.tensors[name]

    def values() -> Tensor:
        whole = file.values(name).clone()
        for place, change in changes:
            rows = slice(*place.part) if place.part is not None else slice(None)
            made = change.apply(place.from_file(whole) - place.shift) + place.shift
            whole[rows] = place.to_file(_finite(made, name))
        return whole

    return FileTensor(name, info.shape, info.type.name, values)


def _compared(path: Path, weights: Weights, form: Form, importances: Importances) -> Iterator[WrittenWeight]:
    """Some rows of every changed weight."""
    written = open_model(path)
    form = Form(form.architecture, form.config, written)
    for parameter, stored, change in weights.changed():
        place = form.place(parameter)
        info = written.tensors[place.tensor]
        base = stored.read().float()
        tuned, exported = change.apply(base), GgufTensor(parameter, written, place, stored.shape).read()
        step = max(1, base.shape[0] // SAMPLED_ROWS) if base.ndim > 1 else 1
        base, tuned, exported = (tensor[::step].contiguous() for tensor in (base, tuned, exported))
        served = base
        if base.ndim > 1:
            packing = codec(info.type.name)
            served = packing.unpack(packing.pack(base, importances.get(place.tensor)))
        yield WrittenWeight(parameter, info.type.name, base, tuned, served, exported)


def _reopened(source: Source, path: Path, dtype: str) -> Opened:
    base = load(path, dtype=dtype)
    return Opened(base, None, source.conversational(base))
