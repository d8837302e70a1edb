"""A base from a GGUF file: matrices stay packed as the file holds them, mapped from it where their order allows it."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from lorica.gguf.architectures import Architecture, Place, architecture
from lorica.gguf.metadata import SPECIAL
from lorica.gguf.read_config import read_config
from lorica.gguf.split import GgufModel
from lorica.gguf.tokenizer import read_tokenizer, stop_ids
from lorica.models import directory
from lorica.models.packed import put_packed, tie
from lorica.models.skeleton import empty_model, put, unfilled

NOT_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def build(file: GgufModel, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model in `file`, computing in `dtype`, and lines the user should see.

    Raises ValueError for an architecture that is not supported, and for tensors that are missing, of another shape than
    the metadata says, of a type without a codec, or (norms and biases) not finite.
    """
    config = read_config(file.metadata, file.tensors, file.values)
    found = architecture(file.metadata)
    _check_layers(file, config.num_hidden_layers)
    model = empty_model(config, dtype)
    used = set()
    for name, module in list(model.named_modules()):
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            whole = f"{name}.{leaf}"
            if whole == "lm_head.weight" and config.tie_word_embeddings:
                continue
            place = find_place(file, found, config, whole)
            used.add(place.tensor)
            _fill(model, file, whole, place, parameter, dtype)
    tie(model)
    missing = unfilled(model)
    assert not missing, f"{missing} are without values"
    model.generation_config = generation_config(file)
    return model, _notes(file, found, used)


def _check_layers(file: GgufModel, layers: int) -> None:
    """Metadata that claims more layers than there are would build a large model only to miss its first tensor."""
    if f"blk.{layers - 1}.attn_output.weight" not in file.tensors:
        raise ValueError(f"{file.path} says that it has {layers} layers, and lacks tensors of the last one.")


def find_place(file: GgufModel, found: Architecture, config: Any, parameter: str) -> Place:
    """Where `file` holds a parameter: in its own tensor, or as a part of a fused one."""
    place = found.place(parameter, config)
    if place is not None and place.tensor in file.tensors:
        return place
    fused = None if place is None else _in_fused(file, config, place)
    if fused is None:
        named = "no tensor" if place is None else f"no {place.tensor}"
        raise ValueError(f"{file.path} has {named} for {parameter}; it is incomplete, or no usual {found.name} model.")
    return fused


def _in_fused(file: GgufModel, config: Any, place: Place) -> Place | None:
    """The part of `attn_qkv` that a q, k or v is; llama.cpp's converter joins them on request."""
    stem, kind = place.tensor.rsplit(".", 2)[1:]
    block = place.tensor.rsplit(".", 2)[0]
    tensor = f"{block}.attn_qkv.{kind}"
    if stem not in ("attn_q", "attn_k", "attn_v") or tensor not in file.tensors:
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query, key = config.num_attention_heads * size, config.num_key_value_heads * size
    part = {"attn_q": (0, query), "attn_k": (query, query + key), "attn_v": (query + key, query + 2 * key)}[stem]
    if file.tensors[tensor].shape[0] != query + 2 * key:
        raise ValueError(
            f"{file.path}: {tensor} has {file.tensors[tensor].shape[0]} rows, and q, k, v {query + 2 * key}."
        )
    return Place(tensor, place.heads, place.shift, part)


def _fill(model: nn.Module, file: GgufModel, name: str, place: Place, parameter: Tensor, dtype: torch.dtype) -> None:
    info = file.tensors[place.tensor]
    rows = info.shape[0] if place.part is None else place.part[1] - place.part[0]
    if (rows, *info.shape[1:]) != tuple(parameter.shape):
        raise ValueError(
            f"{file.path}: {place.tensor} is {(rows, *info.shape[1:])}, and by the metadata {name} is "
            f"{tuple(parameter.shape)}; the file is damaged."
        )
    if parameter.ndim == 2:
        codec = file.codec(place.tensor)
        put_packed(model, name.rpartition(".")[0], codec, place.from_file(file.rows(place.tensor)), dtype)
        return
    values = place.from_file(file.values(place.tensor)) - place.shift
    if not torch.isfinite(values).all():
        raise ValueError(f"{file.path}: {place.tensor} holds NaN or infinite values; the file is damaged.")
    put(model, name, values.to(dtype))


def _notes(file: GgufModel, found: Architecture, used: set[str]) -> list[str]:
    unused = sorted(name for name in file.tensors if name not in used and not name.endswith(NOT_WEIGHTS))
    added = [name for name in unused if name.endswith(".bias")]
    if added:
        raise ValueError(
            f"{file.path} has {added[0]}, which llama.cpp adds where it finds it and transformers' {found.model_type} "
            "has no place for; on this base the model would be another one."
        )
    notes = [f"{len(unused)} tensors in {file.path} are not used: {', '.join(unused[:5])}"] if unused else []
    if not found.window and file.metadata.integer(f"{found.name}.attention.sliding_window", 0):
        notes.append(
            f"the file names a sliding window, which llama.cpp ignores for {found.name}, and so does this base"
        )
    if "rope_factors_long.weight" in file.tensors:
        notes.append(
            "the file has LongRoPE factors for short and long inputs; here the length of an input decides which are "
            "used, in llama.cpp the size of the context that the server was started with"
        )
    return notes


def most_stored(file: GgufModel) -> torch.dtype:
    """fp32 if most values of the file are, else bf16, which stands for all formats of 16 bits and less."""
    sizes = {True: 0, False: 0}
    for info in file.tensors.values():
        sizes[info.type.name == "F32"] += math.prod(info.shape)
    return torch.float32 if sizes[True] > sizes[False] else torch.bfloat16


def gguf_tokenizer(file: GgufModel, folder: str | None) -> Any:
    """The tokenizer in `folder` if one is given, else the file's own; a chat template only the file has is added.

    Raises ValueError if there is none.
    """
    if folder is None:
        return read_tokenizer(file.metadata)
    tokenizer = directory.read_tokenizer(Path(folder))
    if not tokenizer.chat_template and "tokenizer.chat_template" in file.metadata:
        tokenizer.chat_template = file.metadata.text("tokenizer.chat_template")
    return tokenizer


def generation_config(file: GgufModel) -> GenerationConfig:
    """Where llama.cpp ends generation, and how it pads and begins."""
    ids = {f"{ours}_token_id": file.metadata.token_id(SPECIAL[ours]) for ours in ("bos", "pad")}
    return GenerationConfig(eos_token_id=stop_ids(file.metadata) or None, **ids)
