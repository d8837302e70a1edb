"""F16 and BF16: two bytes a weight, rounded to nearest even; F32 as it is."""

import torch
from torch import Tensor

from lorica.quant.arithmetic import as_bytes, numbers
from lorica.quant.codec import BlockCodec


class Float(BlockCodec):
    """Weights stored as `dtype`. Raises ValueError for values that the type does not reach."""

    block_length = 1
    uses_importance = False

    def __init__(self, name: str, type_id: int, dtype: torch.dtype) -> None:
        self.name, self.type_id, self.dtype = name, type_id, dtype
        self.block_bytes = dtype.itemsize

    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        stored = blocks.to(self.dtype)
        if not torch.isfinite(stored).all():
            raise ValueError(
                f"a weight of {blocks.abs().max().item():.3g} is more than {self.name} holds "
                f"({torch.finfo(self.dtype).max:.5g}); pack this tensor as BF16 or F32."
            )
        return as_bytes(stored)

    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        out.copy_(numbers(packed, self.dtype))
