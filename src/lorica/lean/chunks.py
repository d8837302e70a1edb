"""The MLP some tokens at a time, for sequences whose gate and up would not fit: only their parts ever exist."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lean.half import Half
from lorica.lean.lanes import by_lane
from lorica.lean.mlp import Mlp
from lorica.lean.pack import Pack
from lorica.lean.policy import Keep


def in_chunks(half: Half, tokens: int | None) -> Half:
    """An MLP computed so many tokens at a time; None is all at once. Attention has no such form."""
    return ChunkedMlp(half, tokens) if tokens is not None and isinstance(half, Mlp) else half


@dataclass(frozen=True)
class ChunkedMlp:
    """`mlp` of `tokens` of every lane at a time; it keeps nothing but its input."""

    mlp: Mlp
    tokens: int

    def parameters(self) -> list[nn.Parameter]:
        return self.mlp.parameters()

    def forward(self, x: Tensor, pack: Pack) -> tuple[Tensor, tuple[()]]:
        """`x`: (rows, hidden)."""
        y = torch.empty_like(x)
        for chunk, part in self._chunks(x, pack):
            _put(y, self.mlp.forward(_taken(x, chunk, pack), part)[0], chunk, pack)
        return y, ()

    def part(self, kept: tuple[()], keep: Keep) -> tuple[()]:
        return ()

    def whole(self, x: Tensor, part: tuple[Any, ...], pack: Pack) -> tuple[()]:
        return ()

    def backward(
        self, dy: Tensor, x: Tensor, kept: tuple[()], pack: Pack, needs_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """As the whole MLP's, with what that keeps computed again and the parameters' gradients summed."""
        dx = torch.empty_like(x) if needs_input else None
        sums: list[Tensor] = []
        for chunk, part in self._chunks(x, pack):
            rows = _taken(x, chunk, pack)
            again = self.mlp.whole(rows, (), part)
            d_rows, found = self.mlp.backward(_taken(dy, chunk, pack), rows, again, part, needs_input)
            if dx is not None and d_rows is not None:
                _put(dx, d_rows, chunk, pack)
            sums = [total.add_(new) for total, new in zip(sums, found, strict=True)] if sums else found
        return dx, sums

    def _chunks(self, x: Tensor, pack: Pack) -> Iterator[tuple[slice, Pack]]:
        length = len(x) // pack.lanes
        for start in range(0, length, self.tokens):
            chunk = slice(start, min(start + self.tokens, length))
            yield chunk, pack if pack.keys is None else replace(pack, keys=pack.keys[..., chunk])


def _taken(x: Tensor, chunk: slice, pack: Pack) -> Tensor:
    return by_lane(x, pack.lanes)[:, chunk].flatten(0, 1)


def _put(y: Tensor, rows: Tensor, chunk: slice, pack: Pack) -> None:
    by_lane(y, pack.lanes)[:, chunk] = by_lane(rows, pack.lanes)
