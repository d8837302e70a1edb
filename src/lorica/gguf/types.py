"""The types of tensors by ggml's number: how many bytes so many values take. Sizes only; `quant` packs and unpacks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

LARGEST = 1 << 48  # values of one tensor; all that follows then fits in 64 bits


@dataclass(frozen=True)
class TensorType:
    """`block` values along the contiguous axis take `block_bytes`."""

    id: int
    name: str
    block: int
    block_bytes: int

    def size(self, axes: Sequence[int], tensor: str) -> int:
        """Bytes of a tensor with `axes` in the file's order, the contiguous one first.

        Raises ValueError for empty and impossible axes and for rows that are no whole blocks.
        """
        values = math.prod(axes)
        if not 0 < values <= LARGEST or max(axes) > LARGEST:
            raise ValueError(f"the tensor {tensor} has the shape {list(axes)}, which is empty or too large")
        if axes[0] % self.block:
            raise ValueError(
                f"the tensor {tensor} has rows of {axes[0]:,}, no whole blocks of {self.block} ({self.name})"
            )
        return values // self.block * self.block_bytes


TYPES = {
    int(type): TensorType(int(type), type.name, block, block_bytes)
    for type, (block, block_bytes) in GGML_QUANT_SIZES.items()
}


def tensor_type(id: int, tensor: str) -> TensorType:
    """Raises ValueError for a number that ggml gives to no type."""
    found = TYPES.get(id)
    if found is None:
        raise ValueError(f"the tensor {tensor} is of ggml type {id:,}, which is unknown")
    return found


def named(name: str) -> TensorType:
    """The type of that name, such as Q4_K."""
    return TYPES[int(GGMLQuantizationType[name])]
