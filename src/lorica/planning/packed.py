"""Packed weights of a planned model: the modules that hold them, and the bytes, without any values."""

from typing import Any

import torch
from torch import Tensor, nn

from lorica.gguf.architectures import architecture
from lorica.gguf.split import GgufModel
from lorica.models.gguf_base import find_place
from lorica.models.packed import packed_module, tie
from lorica.models.packing import choose_types
from lorica.models.skeleton import replace
from lorica.quant import Codec, PackedMatrix, codec, codec_of_type


def pack_as(model: Any, weights: str, dtype: torch.dtype) -> None:
    """Have the matrices of `model`, which is on the meta device, packed as `model.weights` says."""
    tied = set(getattr(model, "_tied_weights_keys", None) or []) if model.config.tie_word_embeddings else set()
    _, types = choose_types(model, weights, tied)
    for name, kind in types.items():
        _pack(model, name, codec(kind), dtype)
    tie(model)


def pack_like(model: Any, file: GgufModel, dtype: torch.dtype) -> None:
    """Have the matrices of `model` packed as the GGUF file holds them."""
    found = architecture(file.metadata.text("general.architecture"), file.path)
    for name, parameter in list(model.named_parameters()):
        if parameter.ndim == 2 and not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            place = find_place(file, found, model.config, name)
            _pack(model, name, codec_of_type(file.tensors[place.tensor].type.id), dtype)
    tie(model)


def _pack(model: nn.Module, name: str, kind: Codec, dtype: torch.dtype) -> None:
    module_name = name.rpartition(".")[0]
    module = model.get_submodule(module_name)
    rows, columns = module.weight.shape  # type: ignore[misc]
    packed = torch.empty(rows, kind.row_bytes(columns), dtype=torch.uint8, device="meta")
    replace(model, module_name, packed_module(module, kind, packed, dtype))


def make_tables(model: nn.Module) -> None:
    """Codecs make their look-up tables once for each device; make those of the CPU now, while tensors have values."""
    for kind in {part.codec for part in model.modules() if isinstance(part, PackedMatrix)}:
        kind.unpack(torch.zeros(1, kind.row_bytes(256), dtype=torch.uint8))


def twin_of(tensor: Tensor) -> Tensor:
    """The same on the meta device."""
    meta = torch.empty_like(tensor, device="meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
