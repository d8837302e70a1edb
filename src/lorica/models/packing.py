"""A transformers model whose matrices are packed as they are read: one tensor is dense at a time, never the model."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorica.models import directory
from lorica.models.packed import put_packed, tie
from lorica.models.roles import rules_of, tensor_names
from lorica.models.skeleton import model_of, put, unfilled
from lorica.models.stored import StoredTensor, stored_dtype, stored_tensors
from lorica.quant import bitsandbytes, codec, fallback, pack_model
from lorica.quant.mixtures import mixture, tensor_types, wanted_types

NF4 = {"nf4": "NF4", "nf4_dq": "NF4_DQ"}


def read_packed(
    folder: Path, files: list[Path], config: Any, dtype: torch.dtype, weights: str
) -> tuple[Any, list[str]]:
    """The model in a transformers directory with its matrices packed as `weights` (a mixture of llama.cpp's such as
    q4_k_m, or nf4), computing in `dtype`; and notes for the user.

    nf4 packs linear layers but not the output head, as QLoRA does (Dettmers et al. 2023, arXiv:2305.14314); mixtures
    pack the embeddings and the head too. Tensors that come packed by bitsandbytes stay as they are.

    A model that transformers puts together from tensors of other names (fused experts) is read whole before it is
    packed. Raises ValueError for tensors that are missing, of another shape than config.json says, or not finite.
    """
    stored = stored_tensors(files)
    model = model_of(stored, config, dtype)
    for target, source in model.all_tied_weights_keys.items():  # one weight, by either name or by both
        if target in stored:
            stored.setdefault(source, stored.pop(target))
    wanted, types = choose_types(model, weights)
    if weights != "as-is" and not all(name in stored for name, _ in model.named_parameters()):
        return _pack_whole(folder, files, config, dtype, wanted, types)
    used: set[str] = set()
    for name, parameter in list(model.named_parameters()):
        used |= _fill(model, stored, name, parameter, types.get(name), dtype, folder)
    for name, buffer in model.named_buffers():
        if name in stored:
            put(model, name, stored[name].read().to(buffer.dtype))
            used.add(name)
    tie(model)
    missing = unfilled(model)
    assert not missing, f"{missing} are without values"
    model.generation_config = directory.read_generation_config(folder, config)
    return model, _notes(model, folder, wanted, types, set(stored) - used)


def _pack_whole(
    folder: Path, files: list[Path], config: Any, dtype: torch.dtype, wanted: dict[str, str], types: dict[str, str]
) -> tuple[Any, list[str]]:
    """Read by transformers, in the type that is stored so that nothing is rounded before it is packed."""
    model, notes = directory.read_model(folder, config, stored_dtype(files))
    directory.check_finite(model, folder)
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    pack_model(
        model, lambda name, _: codec(types[f"{name}.weight"]) if f"{name}.weight" in types else None, dtype=dtype
    )
    tie(model)
    left = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1) / matrices
    how = f"read whole before packing: its tensors have other names in {folder}; {left:.0%} of its matrices stay dense"
    for name, parameter in model.named_parameters():  # buffers (rotary frequencies) and what stays fp32 are not rounded
        if not any(part in name for part in model._keep_in_fp32_modules_strict):
            parameter.data = parameter.data.to(dtype)
    return model.eval().requires_grad_(False), [how, *notes, *_notes(model, folder, wanted, types, set())]


def choose_types(model: Any, weights: str) -> tuple[dict[str, str], dict[str, str]]:
    """The type of each matrix that is packed, by parameter: as wanted, and as its rows allow."""
    if weights == "as-is":
        return {}, {}
    tied = model.all_tied_weights_keys
    names = {parameter: name for parameter, name in tensor_names(model).items() if parameter not in tied}
    shapes = {names[name]: tuple(model.get_parameter(name).shape) for name in names}
    if weights in NF4:
        ends = ("token_embd.weight", "output.weight")
        wanted = {name: NF4[weights] for name, shape in shapes.items() if name not in ends and _is_layer(name)}
        types = {name: fallback(type, shapes[name][-1]) for name, type in wanted.items()}
    else:
        rules = rules_of(model.config)
        wanted = wanted_types(mixture(weights), shapes, rules)
        types = tensor_types(mixture(weights), shapes, rules)

    def by_parameter(found: dict[str, str]) -> dict[str, str]:
        return {name: found[names[name]] for name in names if names[name] in found}

    return by_parameter(wanted), by_parameter(types)


def _is_layer(tensor: str) -> bool:
    return "ffn_gate_inp" not in tensor


def _fill(
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    name: str,
    parameter: Tensor,
    type: str | None,
    dtype: torch.dtype,
    folder: Path,
) -> set[str]:
    """Give one parameter its values; returns the names of the stored tensors that were used."""
    module_name = name.rpartition(".")[0]
    if f"{module_name}.{bitsandbytes.STATE}" in stored:
        return _packed_already(model, stored, module_name, dtype, folder)
    if name not in stored:
        raise ValueError(
            f"{folder} has no {name} in its weights; the download is incomplete or config.json belongs to another "
            "model."
        )
    tensor = stored[name].read()
    if tensor.shape != parameter.shape:
        raise ValueError(
            f"{folder}: {name} is {tuple(tensor.shape)} in the files and {tuple(parameter.shape)} by config.json; one "
            "of them belongs to another model."
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{folder}: {name} holds NaN or infinite values; the file is damaged, download it again.")
    if type is None:
        put(model, name, tensor.to(dtype, copy=True))
    else:
        put_packed(model, module_name, codec(type), codec(type).pack(tensor), dtype)
    return {name}


def _packed_already(
    model: nn.Module, stored: Mapping[str, StoredTensor], module: str, dtype: torch.dtype, folder: Path
) -> set[str]:
    """A linear layer as bitsandbytes stores it."""
    keys = [key for key in stored if key.startswith(f"{module}.") and key != f"{module}.bias"]
    try:
        found, packed = bitsandbytes.read({key.removeprefix(f"{module}."): stored[key].read() for key in keys})
    except ValueError as error:
        raise ValueError(f"{folder}: {module} cannot be read: {error}") from None
    layer = model.get_submodule(module)
    if (len(packed), found.columns(packed.shape[1])) != tuple(layer.get_parameter("weight").shape):
        raise ValueError(f"{folder}: {module} has another shape in the files than by config.json.")
    put_packed(model, module, found, packed, dtype)
    return set(keys)


def _notes(model: Any, folder: Path, wanted: dict[str, str], types: dict[str, str], unused: set[str]) -> list[str]:
    notes = []
    replaced = Counter((wanted[name], types[name]) for name in types if wanted[name] != types[name])
    for (first, second), times in sorted(replaced.items()):
        notes.append(f"{times} matrices have rows that {first} cannot pack and are {second}, as llama.cpp would do")
    if unused:
        listed = ", ".join(sorted(unused)[:5])
        notes.append(f"{len(unused)} tensors in {folder} are not used by {type(model).__name__}: {listed}")
    return notes
