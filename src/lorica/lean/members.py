"""The adapted layers of a group in one pass: what each adds to the group's products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorica.kernels.dtypes import cast
from lorica.lean.lanes import by_lane
from lorica.lean.pack import Pack
from lorica.lora.dropout import token_dropout
from lorica.lora.layer import LoraLinear


@dataclass(frozen=True)
class Member:
    """An adapted layer, its place in the group, and its matrices in the type of the pass: `down` (A) is (lanes, rank,
    in), `up` (B, without its scale) is (lanes, out, rank); a single lane's are (rank, in) and (out, rank). With a start
    pair (PiSSA) the rank is twice `r`: the pair (A, B), then the frozen (A0, -B0)."""

    place: int
    layer: LoraLinear
    down: Tensor
    up: Tensor
    scale: float | Tensor
    magnitude: nn.Parameter | None

    @classmethod
    def of(cls, place: int, layer: LoraLinear, dtype: torch.dtype) -> Member:
        down: Tensor = layer.lora_A
        up: Tensor = layer.lora_B
        if layer.start_A is not None and layer.start_B is not None:
            down, up = torch.cat([down, layer.start_A], 1), torch.cat([up, -layer.start_B], 2)
        if layer.lanes == 1:
            down, up = down[0], up[0]
        return cls(place, layer, cast(down, dtype), cast(up, dtype), layer.scale, layer.magnitude)

    @property
    def rank(self) -> int:
        return self.down.shape[-2]

    def trained(self, ranks: Tensor, dim: int) -> Tensor:
        """Of what lies by rank along `dim`, what is of the trained pair."""
        return ranks if self.rank == self.layer.r else ranks.narrow(dim, 0, self.layer.r)

    def times_scale_(self, x: Tensor) -> Tensor:
        """`x`, a row or a matrix a lane, in place."""
        return x if isinstance(self.scale, float) and self.scale == 1.0 else x.mul_(self.scale)

    def rescaled(self, y: Tensor) -> Tensor:
        """DoRA's output (rows, out) from the plain one; a bias is not rescaled."""
        bias = getattr(self.layer.base, "bias", None)
        scaled = self.times_ratio(without_bias(y, self.layer))
        return scaled if bias is None else scaled.add_(bias)

    def times_ratio(self, y: Tensor) -> Tensor:
        """Rows (rows, out) times DoRA's magnitude / norm of their lane."""
        assert self.magnitude is not None
        ratio = (self.magnitude.detach() / self.layer.weight_norm()).to(y.dtype)  # (lanes, out)
        return (by_lane(y, len(ratio)) * ratio.unsqueeze(1)).flatten(0, 1)


@dataclass(frozen=True)
class Readers:
    """Adapted layers that read one input, and their A's one under another: (lanes, ranks, in), or (ranks, in) of one
    lane. One that drops of its input reads alone."""

    members: list[Member]
    down: Tensor
    drops: bool

    def dropped(self, x: Tensor, pack: Pack) -> Tensor:
        """Rows (rows, in) as the readers see them. Being linear in the rows, dropout is its own backward pass."""
        if not self.drops:
            return x
        layer = self.members[0].layer
        assert pack.keys is not None, "a training step tells dropout what its tokens are"
        return token_dropout(by_lane(x, pack.lanes), layer.dropout, pack.keys, layer.dropout_salt).flatten(0, 1)

    def apart(self, joined: Tensor, dim: int) -> Iterator[tuple[Member, Tensor]]:
        """Each reader with its part of the ranks, which lie along `dim`."""
        parts = [joined] if len(self.members) == 1 else joined.split_with_sizes([m.rank for m in self.members], dim)
        return zip(self.members, parts, strict=True)


def members_of(modules: Sequence[nn.Module], dtype: torch.dtype) -> list[Member]:
    """The adapted layers that are in use; an adapter that is off or merged has none."""
    return [Member.of(i, m, dtype) for i, m in enumerate(modules) if isinstance(m, LoraLinear) and m.in_use]


def readers_of(members: Sequence[Member]) -> list[Readers]:
    """Those that share the group's input, then those that drop of it."""
    together = [member for member in members if not drops(member.layer)]
    alone = [Readers([member], member.down, True) for member in members if drops(member.layer)]
    if not together:
        return alone
    down = together[0].down if len(together) == 1 else torch.cat([member.down for member in together], -2)
    return [Readers(together, down, False), *alone]


def drops(layer: LoraLinear) -> bool:
    return layer.dropout > 0 and layer.training


def parameters_of(layer: LoraLinear) -> list[nn.Parameter]:
    """The trained parameters, in the order of their gradients."""
    return [p for p in (layer.lora_A, layer.lora_B, layer.magnitude) if p is not None]


def base_of(module: nn.Module) -> nn.Module:
    """The frozen projection of a module, adapted or not."""
    return module.base if isinstance(module, LoraLinear) else module


def without_bias(y: Tensor, layer: LoraLinear) -> Tensor:
    """Rows (rows, out) less the base's bias."""
    bias = getattr(layer.base, "bias", None)
    return y if bias is None else y - bias
