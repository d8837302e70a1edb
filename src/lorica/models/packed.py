"""Modules that hold a packed weight, in place of a model's own."""

from typing import Any

import torch
from torch import Tensor, nn

from lorica.quant import Codec, PackedEmbedding, PackedLinear, PackedMatrix
from lorica.quant import packed_module as module_of


def packed_module(module: nn.Module, codec: Codec, packed: Tensor, dtype: torch.dtype) -> nn.Module:
    """What stands for the linear layer or embedding `module` with the weight `packed` (rows, row bytes)."""
    return module_of(module, PackedMatrix(codec, packed), dtype)


def tie(model: Any) -> None:
    """As transformers' `tie_weights`; a head that is tied to a packed embedding reads the embedding's own bytes."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, PackedEmbedding):
        if model.config.tie_word_embeddings:
            bias = getattr(model.get_output_embeddings(), "bias", None)
            model.set_output_embeddings(PackedLinear(embedding.matrix, embedding.dtype, bias))
    else:
        model.tie_weights()
