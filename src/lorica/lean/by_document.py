"""Attention over packed documents, one document after another in plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Documents end to end: `offsets` are their cumulative lengths, from 0 to the number of rows."""

    offsets: list[int]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> Documents:
        return cls([0, *accumulate(lengths)])

    def slices(self) -> Iterator[slice]:
        return (slice(start, end) for start, end in pairwise(self.offsets))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    scale: float,
    window: int | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`q` (rows, heads, dim), `k` and `v` (rows, kv_heads, dim): the result like `q`, and its log-sum-exp."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    for rows in documents.slices():
        keys, values = (_by_head(x[rows], q.shape[1]) for x in (k, v))
        scores, _ = _scores(_by_head(q[rows], q.shape[1]), keys, scale, window, softcap)
        lse[rows] = scores.logsumexp(-1).t()
        out[rows] = (scores.softmax(-1) @ values).transpose(0, 1).to(q.dtype)
    return out, lse


def attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    documents: Documents,
    scale: float,
    window: int | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    heads = q.shape[1]
    for rows in documents.slices():
        queries, keys, values, d_rows = (_by_head(x[rows], heads) for x in (q, k, v, d_out))
        scores, slope = _scores(queries, keys, scale, window, softcap)
        weights = (scores - lse[rows].t().unsqueeze(-1)).exp()  # (heads, rows, rows)
        along = (d_rows * _by_head(out[rows], heads)).sum(-1, keepdim=True)
        d_scores = weights * (d_rows @ values.mT - along) * scale
        d_scores = d_scores if slope is None else d_scores * slope
        dq[rows] = (d_scores @ keys).transpose(0, 1).to(q.dtype)
        dk[rows] = _summed(d_scores.mT @ queries, k.shape[1]).to(k.dtype)
        dv[rows] = _summed(weights.mT @ d_rows, v.shape[1]).to(v.dtype)
    return dq, dk, dv


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(rows, kv_heads, dim) to (heads, rows, dim), in fp32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.transpose(0, 1).repeat_interleave(heads // x.shape[1], 0)


def _summed(d_heads: Tensor, kv_heads: int) -> Tensor:
    return d_heads.unflatten(0, (kv_heads, -1)).sum(1).transpose(0, 1)


def _scores(q: Tensor, k: Tensor, scale: float, window: int | None, softcap: float) -> tuple[Tensor, Tensor | None]:
    """Masked scores (heads, rows, rows), and the slope of a cap."""
    scores = q @ k.mT * scale
    capped = torch.tanh(scores / softcap) if softcap else None
    scores = scores if capped is None else capped * softcap
    distance = torch.arange(q.shape[1], device=q.device)
    distance = distance[:, None] - distance
    allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return scores.masked_fill(~allowed, float("-inf")), None if capped is None else 1 - capped.square()
