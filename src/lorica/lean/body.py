"""The body of a causal language model, embeddings to final norm, with lean layers wherever the model's own are known.

A body is a separate object over the model's modules: the model itself is left as it is, and generates as it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lorica.kernels.documents import Documents
from lorica.lean.layer import LeanLayer
from lorica.lean.pack import Pack
from lorica.lean.policy import Policy

# What a model's layer is called with, once more: from hidden states, position ids, tables and a mask.
Arguments = Callable[["Inputs"], dict[str, Any]]


@dataclass(frozen=True)
class Inputs:
    """What the model's own layers are given: `hidden` (lanes, tokens, hidden), `position_ids` (lanes, tokens) and the
    cosines and sines (lanes, tokens, width) of each of its rotary embeddings."""

    hidden: Tensor
    position_ids: Tensor
    tables: list[tuple[Tensor, Tensor]]
    masks: Any


@dataclass(frozen=True)
class PlainLayer:
    """A layer of the model as it is, and why."""

    layer: nn.Module
    arguments: Arguments
    reason: str


@dataclass
class LeanBody:
    """`embedding` gives the first hidden states over `multiplier`. `rotary` gives every table from hidden states and
    position ids; `masks` what the model's own layers need of them."""

    embedding: nn.Module
    multiplier: float
    rotary: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]
    layers: list[LeanLayer | PlainLayer]
    final: Callable[[Tensor], Tensor]
    masks: Callable[[Tensor, Tensor], Any]

    @property
    def description(self) -> str:
        lean = sum(isinstance(layer, LeanLayer) for layer in self.layers)
        reasons: dict[str, list[int]] = {}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, PlainLayer):
                reasons.setdefault(layer.reason, []).append(i)
        why = "".join(f"; layer {', '.join(map(str, which))}: {reason}" for reason, which in reasons.items())
        return f"{lean}/{len(self.layers)} layers lean{why}"

    def set_policies(self, policies: Sequence[Policy]) -> None:
        """What each layer keeps for its backward pass; the model's own layers keep what autograd does."""
        for layer, policy in zip(self.layers, policies, strict=True):
            if isinstance(layer, LeanLayer):
                layer.policy = policy

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        documents: Documents,
        rows: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (rows, hidden) of tokens (lanes, tokens), or of the chosen `rows` of lanes * tokens.

        `documents` are those of all lanes, end to end. `keys` are dropout's, None for none.
        """
        lanes = len(input_ids)
        x = self.embedding(input_ids)
        x = x if self.multiplier == 1.0 else x * self.multiplier
        tables = [table(x, position_ids) for table in self.rotary]
        flat = tuple((cos.flatten(0, 1), sin.flatten(0, 1)) for cos, sin in tables)
        pack = Pack(documents, lanes, flat, keys)
        masks = self.masks(x, position_ids) if any(isinstance(layer, PlainLayer) for layer in self.layers) else None
        inputs = Inputs(x, position_ids, tables, masks)
        x = x.flatten(0, 1)
        for layer in self.layers:
            x = layer(x, pack) if isinstance(layer, LeanLayer) else _plain(layer, x, inputs)
        return self.final(x if rows is None else x.index_select(0, rows))


def _plain(layer: PlainLayer, x: Tensor, inputs: Inputs) -> Tensor:
    y = layer.layer(x.view(inputs.hidden.shape), **layer.arguments(inputs))
    found: Tensor = y[0] if isinstance(y, tuple) else y
    return found.flatten(0, 1)
