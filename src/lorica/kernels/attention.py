"""Causal attention over packed documents: no mask matrix, no work across documents.

Forward and backward are torch's own flash kernels (Dao 2023, https://arxiv.org/abs/2307.08691), which keep one number a
query, the log-sum-exp of its scores, in place of the scores. What they have no form for (Gemma 2's cap of the scores;
on a CPU, a sliding window; head sizes that a GPU kernel lacks) is computed in blocks of queries, in plain torch.
"""

from typing import Any

import torch
from torch import Tensor

from lorica.kernels.attention_by_blocks import attention_backward_by_blocks, attention_by_blocks
from lorica.kernels.attention_of_torch import flash_on_cpu, flash_on_cpu_backward, on_gpu
from lorica.kernels.dispatch import is_traced
from lorica.kernels.documents import Documents
from lorica.kernels.scoring import Gradients, Saved, Scoring


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    scale: float,
    window: int | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention's output (tokens, heads, dim), and the log-sum-exp (heads, tokens) of its scores: fp32, natural.

    `q`: (tokens, heads, dim); `k`, `v`: (tokens, kv_heads, dim), each serving `heads / kv_heads` neighbouring heads of
    `q`. A token sees those before it in its own document and itself; with `window` the nearest `window` of them, itself
    included, as transformers counts. Scores are `scale * q k`, or `softcap * tanh(scale * q k / softcap)` where
    `softcap` is not 0 (Gemma 2, https://arxiv.org/abs/2408.00118).
    """
    how = Scoring.of(documents, scale, window, softcap)
    if is_traced(q):
        out, lse = _operator(q, k, v, documents.table, documents.longest, scale, how.window, softcap)
        return out, lse
    return _attention(q, k, v, how)


def attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    documents: Documents,
    scale: float,
    window: int | None = None,
    softcap: float = 0.0,
) -> Gradients:
    """Gradients of q, k and v, contiguous and of their shapes and types, from the gradient `dout` of `out`."""
    how, saved = Scoring.of(documents, scale, window, softcap), Saved(q, k, v, out, lse)
    if is_traced(q):
        table = documents.table
        dq, dk, dv = _backward_operator(dout, *saved, table, documents.longest, scale, how.window, softcap)
        return dq, dk, dv
    return _attention_backward(dout, saved, how)


def _attention(q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> tuple[Tensor, Tensor]:
    if q.is_cpu and how.is_plain and len(q):
        return flash_on_cpu(q, k, v, how)
    kernel = None if how.softcap else on_gpu(q)
    return attention_by_blocks(q, k, v, how) if kernel is None else kernel.forward(q, k, v, how)


def _attention_backward(dout: Tensor, saved: Saved, how: Scoring) -> Gradients:
    if saved.q.is_cpu and how.is_plain and len(saved.q):
        return flash_on_cpu_backward(dout, saved, how)
    kernel = None if how.softcap else on_gpu(saved.q)
    return attention_backward_by_blocks(dout, saved, how) if kernel is None else kernel.backward(dout, saved, how)


@torch.library.custom_op("lorica::attention", mutates_args=())
def _operator(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, longest: int, scale: float, window: int | None, softcap: float
) -> tuple[Tensor, Tensor]:
    return _attention(q, k, v, Scoring(on_host(table, longest), scale, window, softcap))


@torch.library.custom_op("lorica::attention_backward", mutates_args=())
def _backward_operator(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    table: Tensor,
    longest: int,
    scale: float,
    window: int | None,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    how = Scoring(on_host(table, longest), scale, window, softcap)
    return _attention_backward(dout, Saved(q, k, v, out, lse), how)


def on_host(table: Tensor, longest: int) -> Documents:
    """Compiled code knows the table alone (offsets in its signature would compile it anew for each batch); reading it
    back waits for the device."""
    return Documents(table.tolist(), table, longest)


@_operator.register_fake
def _(q: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32))
    return q.new_empty(q.shape), lse


@_backward_operator.register_fake
def _(_dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *_others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
