"""The adapted layers of a group: what each adds to the group's products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorica.lean.lanes import by_lane
from lorica.lean.pack import Pack
from lorica.lora.dropout import token_dropout
from lorica.lora.layer import LoraLinear


@dataclass(frozen=True)
class Member:
    """An adapted layer and its place in the group. With a start pair (PiSSA) its rank is twice `r`: the pair (A, B),
    then the frozen (A0, -B0)."""

    place: int
    layer: LoraLinear

    @property
    def rank(self) -> int:
        return self.layer.r if self.layer.start_A is None else 2 * self.layer.r

    def parameters(self) -> list[nn.Parameter]:
        layer = self.layer
        return [p for p in (layer.lora_A, layer.lora_B, layer.magnitude) if p is not None]

    def down(self, dtype: torch.dtype) -> Tensor:
        """A: (lanes, rank, in)."""
        layer = self.layer
        down = layer.lora_A if layer.start_A is None else torch.cat([layer.lora_A, layer.start_A], 1)
        return down.detach().to(dtype)

    def up(self, dtype: torch.dtype) -> Tensor:
        """B without its scale: (lanes, out, rank)."""
        layer = self.layer
        up = layer.lora_B if layer.start_B is None else torch.cat([layer.lora_B, -layer.start_B], 2)
        return up.detach().to(dtype)

    def columns_among(self, readers: Sequence[Member]) -> slice:
        """This layer's part of the readers' ranks, one after another."""
        start = sum(other.rank for other in readers if other.place < self.place)
        return slice(start, start + self.rank)

    def trained_among(self, readers: Sequence[Member]) -> slice:
        """As `columns_among`, without a start pair."""
        start = self.columns_among(readers).start
        return slice(start, start + self.layer.r)

    @property
    def drops(self) -> bool:
        return self.layer.dropout > 0 and self.layer.training

    def dropped(self, x: Tensor, pack: Pack) -> Tensor:
        """The layer's dropout of rows (rows, in). Being linear in them, it is its own backward pass."""
        layer = self.layer
        assert pack.keys is not None, "a training step tells dropout what its tokens are"
        return token_dropout(by_lane(x, pack.lanes), layer.dropout, pack.keys, layer.dropout_salt).flatten(0, 1)

    def rescaled(self, y: Tensor) -> Tensor:
        """DoRA's output (rows, out) from the plain one; a bias is not rescaled."""
        bias = getattr(self.layer.base, "bias", None)
        scaled = self.times_ratio(without_bias(y, self.layer))
        return scaled if bias is None else scaled.add_(bias)

    def times_ratio(self, y: Tensor) -> Tensor:
        """Rows (rows, out) times DoRA's magnitude / norm of their lane."""
        assert self.layer.magnitude is not None
        ratio = (self.layer.magnitude.detach() / self.layer.weight_norm()).to(y.dtype)  # (lanes, out)
        return (by_lane(y, len(ratio)) * ratio.unsqueeze(1)).flatten(0, 1)


def members_of(modules: Sequence[nn.Module]) -> list[Member]:
    """The adapted layers that are in use; an adapter that is off or merged has none."""
    return [Member(i, m) for i, m in enumerate(modules) if isinstance(m, LoraLinear) and m.in_use]


def base_of(module: nn.Module) -> nn.Module:
    """The frozen projection of a module, adapted or not."""
    return module.base if isinstance(module, LoraLinear) else module


def stacked_down(members: Sequence[Member], dtype: torch.dtype) -> Tensor:
    """The A's one under another: (lanes, ranks, in)."""
    parts = [member.down(dtype) for member in members]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def without_bias(y: Tensor, layer: LoraLinear) -> Tensor:
    """Rows (rows, out) less the base's bias."""
    bias = getattr(layer.base, "bias", None)
    return y if bias is None else y - bias
