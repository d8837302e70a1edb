"""The MLP some tokens at a time, for sequences whose gate and up would not fit: only their parts ever exist."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lorica.lean.lanes import by_lane
from lorica.lean.mlp import Mlp
from lorica.lean.pack import Pack


def forward_in_chunks(mlp: Mlp, x: Tensor, pack: Pack, tokens: int) -> Tensor:
    """`mlp.forward` of `x` (rows, hidden), `tokens` of every lane at a time."""
    y = torch.empty_like(x)
    for chunk, part in _chunks(x, pack, tokens):
        _put(y, mlp.forward(_taken(x, chunk, pack), part)[0], chunk, pack)
    return y


def backward_in_chunks(
    mlp: Mlp, dy: Tensor, x: Tensor, pack: Pack, needs_input: bool, tokens: int
) -> tuple[Tensor | None, list[Tensor]]:
    """`mlp.backward`, with what it needs computed again chunk by chunk and the parameters' gradients summed."""
    dx = torch.empty_like(x) if needs_input else None
    sums: list[Tensor] = []
    for chunk, part in _chunks(x, pack, tokens):
        rows = _taken(x, chunk, pack)
        d_rows, found = mlp.backward(_taken(dy, chunk, pack), rows, mlp.again(rows, part), part, needs_input)
        if dx is not None and d_rows is not None:
            _put(dx, d_rows, chunk, pack)
        sums = [total.add_(new) for total, new in zip(sums, found, strict=True)] if sums else found
    return dx, sums


def _chunks(x: Tensor, pack: Pack, tokens: int) -> Iterator[tuple[slice, Pack]]:
    length = len(x) // pack.lanes
    for start in range(0, length, tokens):
        chunk = slice(start, min(start + tokens, length))
        yield chunk, pack if pack.keys is None else replace(pack, keys=pack.keys[..., chunk])


def _taken(x: Tensor, chunk: slice, pack: Pack) -> Tensor:
    return by_lane(x, pack.lanes)[:, chunk].flatten(0, 1)


def _put(y: Tensor, rows: Tensor, chunk: slice, pack: Pack) -> None:
    by_lane(y, pack.lanes)[:, chunk] = by_lane(rows, pack.lanes)
