"""Modules that hold a packed weight, in place of a model's own."""

import torch
from torch import Tensor, nn

from lorica.quant import Codec


def packed_module(module: nn.Module, codec: Codec, packed: Tensor, dtype: torch.dtype) -> nn.Module:
    """What stands for the linear layer or embedding `module` with the weight `packed` (rows, row bytes)."""
    values = codec.unpack(packed).to(dtype)
    module.weight = nn.Parameter(values, requires_grad=False)
    return module
