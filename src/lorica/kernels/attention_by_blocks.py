"""Attention over packed documents in plain torch, a block of queries at a time: the reference.

At most `BLOCK` queries of one document meet their keys at once, so memory grows with the longest document, and with a
sliding window not even with that. Heads that share keys are rows of one product: nothing is expanded.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from lorica.kernels.dtypes import widened
from lorica.kernels.scoring import Gradients, Saved, Scoring

BLOCK = 128  # queries; with fewer, the products are too small to be fast


def attention_by_blocks(q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> tuple[Tensor, Tensor]:
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32))
    for rows, seen in blocks(how):
        queries, keys, values = (by_kv_head(x, k.shape[1]) for x in (q[rows], k[seen], v[seen]))
        scores, _ = masked_scores(queries, keys, rows, seen, how)
        statistics = scores.logsumexp(-1, keepdim=True)  # (kv_heads, group * rows, 1)
        weights = scores.sub_(statistics).exp_()
        out[rows] = by_token(weights @ values, rows)
        lse[:, rows] = statistics.view(q.shape[1], -1)
    return out, lse


def attention_backward_by_blocks(dout: Tensor, saved: Saved, how: Scoring) -> Gradients:
    q, k, v, out, lse = saved
    dq = q.new_empty(q.shape)
    dk, dv = (torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (k, v))  # sums over blocks of queries
    for rows, seen in blocks(how):
        queries, keys, values = (by_kv_head(x, k.shape[1]) for x in (q[rows], k[seen], v[seen]))
        gradient, result = (by_kv_head(x[rows], k.shape[1]) for x in (dout, out))
        scores, slope = masked_scores(queries, keys, rows, seen, how)
        weights = scores.sub_(lse[:, rows].reshape(len(keys), -1, 1)).exp_()
        dv[seen] += (weights.mT @ gradient).transpose(0, 1)
        along = torch.linalg.vecdot(gradient, result).unsqueeze(-1)
        d_scores = (gradient @ values.mT).sub_(along).mul_(weights).mul_(how.scale)
        if slope is not None:
            d_scores.mul_(slope)
        dq[rows] = by_token(d_scores @ keys, rows)
        dk[seen] += (d_scores.mT @ queries).transpose(0, 1)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def blocks(how: Scoring) -> Iterator[tuple[slice, slice]]:
    """Queries of a document, and the keys that any of them sees."""
    for start, end in pairwise(how.documents.offsets):
        for first in range(start, end, BLOCK):
            last = min(first + BLOCK, end)
            yield slice(first, last), slice(start if how.window is None else max(start, first - how.window + 1), last)


def by_kv_head(x: Tensor, kv_heads: int) -> Tensor:
    """(rows, heads, dim) to (kv_heads, group * rows, dim), in the type it is computed in."""
    return widened(x).unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)


def by_token(x: Tensor, rows: slice) -> Tensor:
    """(kv_heads, group * rows, dim) to (rows, heads, dim)."""
    return x.unflatten(1, (-1, rows.stop - rows.start)).flatten(0, 1).transpose(0, 1)


def masked_scores(
    queries: Tensor, keys: Tensor, rows: slice, seen: slice, how: Scoring
) -> tuple[Tensor, Tensor | None]:
    """Scores (kv_heads, group * rows, keys), -inf where a query does not see a key; and the slope of a cap."""
    scores = (queries @ keys.mT).mul_(how.scale)
    slope = None
    if how.softcap:
        capped = scores.div_(how.softcap).tanh_()
        slope = 1 - capped.square()
        scores = capped.mul_(how.softcap)
    positions = torch.arange(seen.start, seen.stop, device=keys.device)
    distance = positions[rows.start - seen.start :, None] - positions  # (rows, keys)
    hidden = distance < 0 if how.window is None else (distance < 0) | (distance >= how.window)
    scores.unflatten(1, (-1, len(hidden))).masked_fill_(hidden, float("-inf"))
    return scores, slope
