"""The body of a causal language model, embeddings to final norm, with lean layers wherever the model's own are known.

A body is a separate object over the model's modules: the model itself is left as it is, and generates as it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from lorica.kernels.documents import Documents
from lorica.lean.layer import LeanLayer
from lorica.lean.own import HalfLeanLayer, PlainLayer
from lorica.lean.pack import Inputs, Pack
from lorica.lean.policy import Policy


class Layer(Protocol):
    """A decoder layer. `masked`: parts of it that are the model's own are given a mask."""

    policy: Policy

    @property
    def masked(self) -> bool: ...

    def __call__(self, x: Tensor, pack: Pack) -> Tensor:
        """Hidden states (rows, hidden) to hidden states. Differentiable once."""


@dataclass
class LeanBody:
    """`embedding` gives the first hidden states over `multiplier`. `rotary` gives every table from hidden states and
    position ids; `masks` what the model's own modules need of them. `before` and `after` are told of every layer."""

    embedding: nn.Module
    multiplier: float
    rotary: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]
    layers: list[Layer]
    final: Callable[[Tensor], Tensor]
    masks: Callable[[Tensor, Tensor], Any]
    before: Callable[[int], None] = lambda number: None
    after: Callable[[int, Tensor], None] = lambda number, y: None

    @property
    def description(self) -> str:
        reasons: dict[str, list[int]] = {}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, HalfLeanLayer | PlainLayer):
                reasons.setdefault(layer.reason, []).append(i)
        why = "".join(f"; layer {', '.join(map(str, which))}: {reason}" for reason, which in reasons.items())
        return counted(self.layers) + why

    def set_policies(self, policies: Sequence[Policy]) -> None:
        """What each layer keeps for its backward pass."""
        for layer, policy in zip(self.layers, policies, strict=True):
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
        x = self.embedding(input_ids)
        x = x if self.multiplier == 1.0 else x * self.multiplier
        tables = [table(x, position_ids) for table in self.rotary]
        masks = self.masks(x, position_ids) if any(layer.masked for layer in self.layers) else None
        pack = Pack.of(Inputs(position_ids, tables, masks), documents, keys)
        x = x.flatten(0, 1)
        for number, layer in enumerate(self.layers):
            self.before(number)
            x = layer(x, pack)
            self.after(number, x)
        return self.final(x if rows is None else x.index_select(0, rows))


def counted(layers: Sequence[Layer]) -> str:
    """How many are lean, and in half."""
    lean = sum(isinstance(layer, LeanLayer) for layer in layers)
    half = sum(isinstance(layer, HalfLeanLayer) for layer in layers)
    if half and not lean:
        return f"{half}/{len(layers)} layers lean in half"
    return f"{lean}/{len(layers)} layers lean" + (f", {half} in half" if half else "")
