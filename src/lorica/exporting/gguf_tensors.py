"""The tensors of a GGUF file about to be written: made from a transformers directory, or taken from a GGUF base."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lorica.exporting.changes import Change
from lorica.exporting.gguf_form import FileTensor, Form
from lorica.exporting.weights import Weights
from lorica.gguf.architectures import Place
from lorica.gguf.split import GgufModel
from lorica.models.stored import Stored

DENSE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def converted(weights: Weights, form: Form) -> list[FileTensor]:
    """Those of a transformers directory with all changes: vectors in fp32, matrices as they are stored.

    Raises ValueError for a parameter that has no place in such files.
    """
    changed = {parameter: (stored, change) for parameter, stored, change in weights.changed()}
    names = dict(weights.skeleton.model.named_parameters())  # a tied head once, as the embedding
    if weights.changes.untie:
        check_untying(form)
    found = []
    for parameter in [*names, *(changed.keys() - names.keys())]:
        stored, change = changed.get(parameter) or (weights.tensor_of(parameter), None)
        found.append(made(form.place(parameter), stored, change))
    return found


def check_untying(form: Form) -> None:
    """Raises ValueError for an architecture whose files have no head of their own."""
    if form.architecture.head == "tied":
        raise ValueError(
            f"llama.cpp's {form.architecture.name} has one weight for embedding and head, and the fine-tune made them "
            "two. Use --to merged."
        )


def made(place: Place, stored: Stored, change: Change | None) -> FileTensor:
    """A whole parameter, changed if there is a change, in the form of its place."""
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


def onto_file(weights: Weights, form: Form) -> tuple[list[FileTensor], set[str]]:
    """Those of a GGUF base with all changes, and the names of the changed ones; the others keep their bytes."""
    file = weights.file
    assert file is not None
    changes: dict[str, list[tuple[Place, Change]]] = {}
    extra = []
    for parameter, stored, change in weights.changed():
        place = form.place(parameter)
        if place.tensor in file.tensors:
            changes.setdefault(place.tensor, []).append((place, change))
        else:
            check_untying(form)
            extra.append(made(place, stored, change))
    tensors = [
        _changed(file, name, changes[name]) if name in changes else verbatim(file, name) for name in file.tensors
    ]
    return [*tensors, *extra], {*changes, *(tensor.name for tensor in extra)}


def verbatim(file: GgufModel, name: str) -> FileTensor:
    """A tensor of a GGUF file as it is."""
    info = file.tensors[name]
    return FileTensor(name, info.shape, info.type.name, lambda: file.values(name), lambda: file.data(name))


def _changed(file: GgufModel, name: str, changes: list[tuple[Place, Change]]) -> FileTensor:
    """Several parameters may lie in one tensor, each in rows of its own."""
    info = file.tensors[name]

    def values() -> Tensor:
        whole = file.values(name).clone()
        for place, change in changes:
            rows = slice(*place.part) if place.part is not None else slice(None)
            changed = change.apply(place.from_file(whole) - place.shift) + place.shift
            whole[rows] = place.to_file(_finite(changed, name))
        return whole

    return FileTensor(name, info.shape, info.type.name, values)


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise ValueError(f"merging gives NaN or infinite values in {name}; nothing was written.")
    return tensor


def is_dense(file: GgufModel) -> bool:
    """Whether no tensor of the file is packed."""
    return all(info.type.name in DENSE.values() for info in file.tensors.values())


def check_importances(tensors: list[FileTensor], importances: Mapping[str, Tensor]) -> None:
    """Raises ValueError for importances of another model."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for name, values in importances.items():
        if name not in shapes or shapes[name][-1] != len(values):
            raise ValueError(f"the imatrix is of another model: it has {len(values)} columns for {name}.")
