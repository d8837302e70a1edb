"""Modules that hold a packed weight, in place of a model's own."""

from typing import Any

import torch
from torch import Tensor, nn

from lorica.quant import Codec, PackedEmbedding, PackedLinear, PackedMatrix, packed_module


def put_packed(model: nn.Module, name: str, codec: Codec, packed: Tensor, dtype: torch.dtype) -> None:
    """Make `packed` (rows, row bytes) the weight of the linear layer or embedding called `name`."""
    model.set_submodule(name, packed_module(model.get_submodule(name), PackedMatrix(codec, packed), dtype))


def tie(model: Any) -> None:
    """As transformers' `tie_weights`; a head that is tied to a packed embedding reads the embedding's own bytes."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, PackedEmbedding):
        if model.config.tie_word_embeddings:
            bias = getattr(model.get_output_embeddings(), "bias", None)
            model.set_output_embeddings(PackedLinear(embedding.matrix, embedding.dtype, bias))
    else:
        model.tie_weights()
