"""One view of the frozen weight under an adapter, whatever kind of module holds it.

A linear layer's weight is always seen as (out, in), an embedding's as (dim, vocabulary), so that `scale * B @ A` has
the weight's own shape for every kind. A packed weight is unpacked to be seen, some rows at a time where that will do.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lorica.quant import PackedEmbedding, PackedLinear, PackedMatrix, can_be_packed


def is_linear(module: nn.Module) -> bool:
    """Whether `module` multiplies by one weight matrix that can carry a LoRA pair."""
    return isinstance(module, Conv1D | PackedLinear) or (isinstance(module, nn.Linear) and can_be_packed(module))


def is_embedding(module: nn.Module) -> bool:
    """Whether `module` looks tokens up in a table."""
    return isinstance(module, nn.Embedding | PackedEmbedding)


def is_adaptable(module: nn.Module) -> bool:
    """Whether `attach` knows how to adapt `module`."""
    return is_linear(module) or is_embedding(module)


def is_lookup(module: nn.Module) -> bool:
    """Whether an embedding is its table's row for the token, at most times a constant `embed_scale` (Gemma)."""
    return isinstance(module, PackedEmbedding) or can_be_packed(module)


def is_packed(module: nn.Module) -> bool:
    """Whether the weight is packed in one of `lorica.quant`'s formats."""
    return isinstance(module, PackedLinear | PackedEmbedding)


def is_foreign(module: nn.Module) -> bool:
    """Whether the weight is in another library's format rather than a matrix of numbers or packed by Lorica."""
    if is_packed(module):
        return False
    weight: Any = module.weight
    return weight.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16) or weight.ndim != 2


def is_transposed(module: nn.Module) -> bool:
    """Whether the module stores its weight the other way round than the (out, in) that adapters are written for."""
    return isinstance(module, Conv1D) or is_embedding(module)


def dense_weight(module: nn.Module) -> Tensor:
    """The weight as (out, in); for an embedding as (dim, vocabulary). A view, but of a packed weight an fp32 copy."""
    held = _held(module)
    weight: Tensor = held.dense() if isinstance(held, PackedMatrix) else held
    return weight.t() if is_transposed(module) else weight


def weight_chunks(module: nn.Module) -> Iterator[tuple[slice, Tensor]]:
    """The weight as `dense_weight` gives it, in fp32, some of its rows at a time; read only."""
    if isinstance(module, PackedLinear):
        yield from module.matrix.chunks(torch.float32)
    else:
        yield slice(None), dense_weight(module).float()


def table_rows(module: nn.Module, tokens: Tensor) -> Tensor:
    """Rows (tokens, dim) in fp32 of an embedding, or of an output head."""
    held = _held(module)
    return held.gather(tokens) if isinstance(held, PackedMatrix) else held.detach()[tokens].float()


def features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of the map that the adapter adds to; for an embedding (vocabulary, dim)."""
    rows, columns = _held(module).shape
    return (rows, columns) if is_transposed(module) else (columns, rows)


def device_of(module: nn.Module) -> torch.device:
    """Where the weight lies."""
    held = _held(module)
    return held.device if isinstance(held, Tensor) else held.packed.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """What a module, adapted or not, computes in."""
    owner: Any = module
    held = _held(module)
    dtype: torch.dtype = owner.dtype if isinstance(held, PackedMatrix) else held.dtype
    return dtype


def share_weight(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules, adapted or not, hold one and the same weight."""
    held = _held(first)
    return held is not None and held is _held(second)


def vocabulary_of(module: nn.Module) -> int:
    """Rows of an embedding, or outputs of a head, adapted or not."""
    return int(_held(module).shape[0])


def count_weights(model: nn.Module) -> int:
    """The numbers in all weights of a model, adapted or not; packed ones count as what they stand for."""
    packed = {id(part): math.prod(part.shape) for part in model.modules() if isinstance(part, PackedMatrix)}
    return sum(parameter.numel() for parameter in model.parameters()) + sum(packed.values())


def has_weight(module: nn.Module) -> bool:
    """Whether `module`, or what it adapts, holds a weight that these functions see."""
    return isinstance(_held(module), Tensor | PackedMatrix)


def _held(module: nn.Module) -> Any:
    """The tensor or `PackedMatrix` that holds the weight of `module`, or of what it adapts; None without one."""
    matrix = getattr(module, "matrix", None)
    return matrix if isinstance(matrix, PackedMatrix) else getattr(module, "weight", None)
