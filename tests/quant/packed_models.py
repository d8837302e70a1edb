"""A small model with packed weights, and its twin on the same weights unpacked."""

import copy
from typing import Any

import torch
from torch import nn

from lorica.quant import PackedEmbedding, PackedLinear, codec, pack_model
from tiny_models import llama

SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "initializer_range": 0.05}


def packed_and_dense(name: str = "Q4_K", **fields: Any) -> tuple[Any, Any]:
    """The same function twice: packed, and in dense fp32 of what the packed bytes stand for. Everything is packed,
    embedding and head too."""
    packed = llama(**SIZES | fields)
    dense = copy.deepcopy(packed)
    assert len(pack_model(packed, codec(name))) == 9
    for part, module in packed.named_modules():
        if isinstance(module, PackedLinear | PackedEmbedding):
            dense.get_submodule(part).weight.data.copy_(module.matrix.dense())
    return packed, dense


def bytes_held(model: nn.Module) -> int:
    """Of all storages, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in [*model.parameters(), *model.buffers()]}
    return sum(storage.nbytes() for storage in storages.values())


def linear(name: str, rows: int, columns: int, bias: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """A packed linear layer, and its weight unpacked."""
    draw = torch.Generator().manual_seed(rows)
    module = nn.Linear(columns, rows, bias=bias)
    module.weight.data = torch.randn(rows, columns, generator=draw)
    holder = nn.Sequential(module)
    pack_model(holder, codec(name), dtype=dtype)
    return holder[0], holder[0].matrix.dense(dtype)
