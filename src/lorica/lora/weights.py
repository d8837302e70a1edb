"""One view of the frozen weight under an adapter, whatever kind of module holds it.

A linear layer's weight is always seen as (out, in), an embedding's as (dim, vocabulary), so that `scale * B @ A` has
the weight's own shape for every kind. A packed weight format joins by adding its case to these functions.
"""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def is_linear(module: nn.Module) -> bool:
    """Whether `module` multiplies by one weight matrix that can carry a LoRA pair."""
    return isinstance(module, nn.Linear | Conv1D)


def is_adaptable(module: nn.Module) -> bool:
    """Whether `attach` knows how to adapt `module`."""
    return is_linear(module) or isinstance(module, nn.Embedding)


def is_lookup(module: nn.Embedding) -> bool:
    """Whether an embedding is its table's row for the token, at most times a constant `embed_scale` (Gemma)."""
    return type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")


def is_packed(module: nn.Module) -> bool:
    """Whether the weight is in a quantiser's own format rather than a matrix of numbers."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16) or weight.ndim != 2


def is_transposed(module: nn.Module) -> bool:
    """Whether the module stores its weight the other way round than the (out, in) that adapters are written for."""
    return isinstance(module, Conv1D | nn.Embedding)


def dense_weight(module: nn.Module) -> Tensor:
    """The weight as (out, in); for an embedding as (dim, vocabulary). A view: no copy."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.t() if is_transposed(module) else weight


def features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of the map that the adapter adds to; for an embedding (vocabulary, dim)."""
    rows, columns = dense_weight(module).shape
    return columns, rows
