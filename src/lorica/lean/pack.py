"""What the layers know of the tokens in hand beside their hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lorica.kernels.documents import Documents


@dataclass(frozen=True)
class Inputs:
    """What the model's own modules are given beside hidden states: `position_ids` (lanes, tokens), the cosines and
    sines (lanes, tokens, width) of each of its rotary embeddings, and the mask of packed documents, or one for every
    type of layer."""

    position_ids: Tensor
    tables: list[tuple[Tensor, Tensor]]
    masks: Any


@dataclass(frozen=True)
class Pack:
    """Some documents end to end, those of every lane after those of the lane before: (lanes * tokens) rows.

    `tables` are the cosines and sines, each (rows, width), by the number of the model's rotary embedding; `inputs` has
    them as the model's own modules take them. `keys` (tokens,) or (lanes, tokens) tell dropout what each token is; None
    is no dropout.
    """

    documents: Documents
    lanes: int
    tables: tuple[tuple[Tensor, Tensor], ...]
    keys: Tensor | None = None
    inputs: Inputs | None = None

    @classmethod
    def of(cls, inputs: Inputs, documents: Documents, keys: Tensor | None = None) -> Pack:
        tables = tuple((cos.flatten(0, 1), sin.flatten(0, 1)) for cos, sin in inputs.tables)
        return cls(documents, len(inputs.position_ids), tables, keys, inputs)
