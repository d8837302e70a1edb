"""One view of the frozen weight under an adapter, whatever kind of module holds it.

A linear layer's weight is always seen as (out, in), an embedding's as (dim, vocabulary), so that `scale * B @ A` has
the weight's own shape for every kind. A packed weight format joins by adding its case to these functions.
"""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def is_linear(module: nn.Module) -> bool:
    """Whether `module` multiplies by one weight matrix that can carry a LoRA pair."""
    return isinstance(module, nn.Linear | Conv1D)


def is_adaptable(module: nn.Module) -> bool:
    """Whether `attach` knows how to adapt `module`."""
    return is_linear(module) or isinstance(module, nn.Embedding)


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
