"""Pack a model that is in memory, module by module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lorica.quant.codec import Codec
from lorica.quant.linear import can_be_packed, packed_module
from lorica.quant.matrix import PackedMatrix

# The codec for the weight of a module (by name), or None to leave it as it is.
Choice = Callable[[str, nn.Module], Codec | None]


def pack_model(
    model: Any, choice: Codec | Choice, *, skip: Iterable[str] = (), dtype: torch.dtype | None = None
) -> list[str]:
    """Replace the linear layers and embeddings of `model` by packed ones, in place; a tied pair stays one weight.

    `skip` are endings of module names to leave alone. The modules compute in `dtype`, or else in that of their weight.
    Returns the names of what was packed. Raises ValueError for rows that a codec's blocks do not divide.
    """
    choose: Choice = choice if not isinstance(choice, Codec) else lambda name, module: choice
    skipped = tuple(skip)
    done: dict[int, PackedMatrix] = {}
    names = []
    for name, module in list(model.named_modules()):
        chosen = None
        if can_be_packed(module) and not (skipped and f".{name}".endswith(skipped)):
            chosen = choose(name, module)
        if chosen is not None:
            weight = module.weight
            if id(weight) not in done:
                done[id(weight)] = PackedMatrix(chosen, chosen.pack(weight))
            model.set_submodule(name, packed_module(module, done[id(weight)], dtype or weight.dtype))
            names.append(name)
    return names
