"""Causal attention over packed documents: no mask matrix, no work across documents.

Forward and backward are torch's own flash kernels (Dao 2023, https://arxiv.org/abs/2307.08691), which keep one number a
query, the log-sum-exp of its scores, in place of the scores. What they have no form for (Gemma 2's cap of the scores;
on a CPU, a sliding window; head sizes that a GPU kernel lacks) is computed in blocks of queries, in plain torch.
"""

import torch
from torch import Tensor

from lorica.kernels.attention_by_blocks import attention_backward_by_blocks, attention_by_blocks
from lorica.kernels.attention_of_torch import flash_on_cpu, flash_on_cpu_backward, on_gpu
from lorica.kernels.dispatch import is_traced
from lorica.kernels.documents import Documents

Gradients = tuple[Tensor, Tensor, Tensor]


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
    window = effective(window, documents)
    if is_traced(q):
        out, lse = _operator(q, k, v, documents.table, documents.longest, scale, window, softcap)
        return out, lse
    return _attention(q, k, v, documents, scale, window, softcap)


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
    window = effective(window, documents)
    if is_traced(q):
        table = documents.table
        dq, dk, dv = _backward_operator(dout, q, k, v, out, lse, table, documents.longest, scale, window, softcap)
        return dq, dk, dv
    return _attention_backward(dout, q, k, v, out, lse, documents, scale, window, softcap)


def effective(window: int | None, documents: Documents) -> int | None:
    """A window that no document is longer than is none."""
    assert window is None or window > 0, f"a window of {window} tokens"
    return None if window is None or window >= documents.longest else window


def _attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, scale: float, window: int | None, softcap: float
) -> tuple[Tensor, Tensor]:
    if q.is_cpu and not window and not softcap:
        return flash_on_cpu(q, k, v, documents, scale)
    kernel = None if softcap else on_gpu(q)
    if kernel is not None:
        return kernel.forward(q, k, v, documents, scale, window)
    return attention_by_blocks(q, k, v, documents, scale, window, softcap)


def _attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    documents: Documents,
    scale: float,
    window: int | None,
    softcap: float,
) -> Gradients:
    if q.is_cpu and not window and not softcap:
        return flash_on_cpu_backward(dout, q, k, v, out, lse, documents, scale)
    kernel = None if softcap else on_gpu(q)
    if kernel is not None:
        return kernel.backward(dout, q, k, v, out, lse, documents, scale, window)
    return attention_backward_by_blocks(dout, q, k, v, out, lse, documents, scale, window, softcap)


@torch.library.custom_op("lorica::attention", mutates_args=())
def _operator(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, longest: int, scale: float, window: int | None, softcap: float
) -> tuple[Tensor, Tensor]:
    return _attention(q, k, v, on_host(table, longest), scale, window, softcap)


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
    documents = on_host(table, longest)
    return _attention_backward(dout, q, k, v, out, lse, documents, scale, window, softcap)


def on_host(table: Tensor, longest: int) -> Documents:
    """Compiled code knows the table alone (offsets in its signature would compile it anew for each batch); reading it
    back waits for the device."""
    return Documents(table.tolist(), table, longest)


@_operator.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, longest: int, scale: float, window: int | None, softcap: float
) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32))
    return q.new_empty(q.shape), lse


@_backward_operator.register_fake
def _(
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
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
