"""torch's own attention kernels over packed documents, called below autograd: the log-sum-exp that they keep for the
backward pass is the caller's to keep, or to compute again.

On a CPU the kernel takes documents of one length, so it runs once for each run of them. On a GPU one launch takes the
whole pack with its cumulative lengths.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lorica.kernels.documents import Documents, Run
from lorica.kernels.dtypes import cast, widened
from lorica.kernels.scoring import Gradients, Saved, Scoring


def flash_on_cpu(q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> tuple[Tensor, Tensor]:
    outs, statistics = [], []
    for run in how.documents.runs():
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(_by_document(x, run) for x in (q, k, v)), 0.0, True, scale=how.scale
        )
        outs.append(_end_to_end(out))
        statistics.append(lse.transpose(0, 1).flatten(1))
    return _joined(outs, 0), _joined(statistics, 1)


def flash_on_cpu_backward(dout: Tensor, saved: Saved, how: Scoring) -> Gradients:
    """In fp32 for 16-bit types, a run at a time: the kernel's own 16-bit path adds up the heads that share keys in
    their own type, rounding every time, and is 5 times slower over documents of 64 tokens (equal over 400, faster by a
    quarter over 1,024; measured with AMX)."""
    q, k, v, out, lse = saved
    gradients: tuple[list[Tensor], ...] = ([], [], [])
    for run in how.documents.runs():
        share = 1 if _keeps_threads_busy(run.count * k.shape[1]) else q.shape[1] // k.shape[1]
        dout_, q_, k_, v_, out_ = (widened(_by_document(x, run)) for x in (dout, q, k, v, out))
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            dout_, q_, _copied(k_, share), _copied(v_, share), out_, _statistics(lse, run), 0.0, True, scale=how.scale
        )
        for parts, found in zip(gradients, (dq, _added(dk, share), _added(dv, share)), strict=True):
            parts.append(_end_to_end(found))
    # The sum over copies of a head lies head by head.
    dq, dk, dv = (cast(_joined(parts, 0), q.dtype).contiguous() for parts in gradients)
    return dq, dk, dv


def _keeps_threads_busy(parts: int) -> bool:
    """Whether so many equal parts divide well among the threads. The kernel's backward pass gives a thread all heads
    that share keys: over 771 tokens 3 such parts took two threads 15 % longer than 9 heads with keys of their own."""
    rounds = -(-parts // torch.get_num_threads())
    return parts >= 0.9 * rounds * torch.get_num_threads()


def _copied(x: Tensor, times: int) -> Tensor:
    """Heads of (documents, heads, length, dim), each so many times in a row."""
    return x if times == 1 else x.repeat_interleave(times, 1)


def _added(x: Tensor, times: int) -> Tensor:
    """The sum of the gradients of such copies."""
    return x if times == 1 else x.unflatten(1, (-1, times)).sum(2)


def _by_document(x: Tensor, run: Run) -> Tensor:
    """A run's rows of (tokens, heads, dim) as (documents, heads, length, dim), a view made in one step."""
    (_, heads, dim), (token, head, feature) = x.shape, x.stride()
    strides = (run.length * token, head, token, feature)
    return x.as_strided((run.count, heads, run.length, dim), strides, x.storage_offset() + run.rows.start * token)


def _end_to_end(x: Tensor) -> Tensor:
    """The inverse: (documents * length, heads, dim), a view of what the kernel gives."""
    return x.transpose(1, 2).flatten(0, 1)


def _joined(runs: list[Tensor], dim: int) -> Tensor:
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim)


def _statistics(lse: Tensor, run: Run) -> Tensor:
    """A run's columns of (heads, tokens) as (documents, heads, length), a view."""
    return lse[:, run.rows].view(-1, run.count, run.length).transpose(0, 1)


class GpuKernel(Protocol):
    """Attention of a whole pack in one launch."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> tuple[Tensor, Tensor]: ...

    def backward(self, dout: Tensor, saved: Saved, how: Scoring) -> Gradients: ...


def on_gpu(q: Tensor) -> GpuKernel | None:
    """The kernel that takes heads of this size and type on this device; None where there is none."""
    if not q.is_cuda:
        return None
    wide = q.dtype == torch.float32
    if not wide and q.dtype not in (torch.bfloat16, torch.float16):
        return None
    dim, ampere = q.shape[-1], torch.cuda.get_device_capability(q.device) >= (8, 0)
    if ampere and not wide and dim % 8 == 0 and dim <= 256 and torch.backends.cuda.is_flash_attention_available():
        return Flash()
    if q.dtype == torch.bfloat16 and not ampere:
        return None
    return MemoryEfficient() if dim % (4 if wide else 8) == 0 else None


@dataclass(frozen=True)
class Flash:
    """FlashAttention-2 as torch builds it: 16-bit types, heads of up to 256 features, shared keys as they are."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            *(_dense_features(x) for x in (q, k, v)), *self.lengths(how.documents), 0.0, True, False,
            scale=how.scale, **self.sides(how.window),
        )  # fmt: skip
        return out, lse

    def backward(self, dout: Tensor, saved: Saved, how: Scoring) -> Gradients:
        q, k, v, out, lse = saved
        state = torch.empty(2, dtype=torch.uint64, device=q.device)  # of dropout's generator, not read without dropout
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            *(_dense_features(x) for x in (dout, q, k, v, out)), lse, *self.lengths(how.documents), 0.0, True,
            state, state, scale=how.scale, **self.sides(how.window),
        )  # fmt: skip
        return dq, dk, dv

    def lengths(self, documents: Documents) -> tuple[Tensor, Tensor, int, int]:
        return documents.table, documents.table, documents.longest, documents.longest

    def sides(self, window: int | None) -> dict[str, int]:
        return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


@dataclass(frozen=True)
class MemoryEfficient:
    """The kernel of xFormers (Rabe and Staats 2021, https://arxiv.org/abs/2112.05682), for fp32 and for GPUs before
    Ampere. It has no shared keys, which are expanded, and lays its log-sum-exps out in rows of the longest document."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, how: Scoring) -> tuple[Tensor, Tensor]:
        table, longest = how.documents.table, how.documents.longest
        out, padded, *_ = torch.ops.aten._efficient_attention_forward(
            *self.heads(q, k, v), None, table, table, longest, longest, 0.0, 1, True,
            scale=how.scale, window_size=how.window,
        )  # fmt: skip
        place = self.place(how.documents, len(q), padded.shape[-1])
        return out[0], padded.transpose(0, 1).flatten(1)[:, place]

    def backward(self, dout: Tensor, saved: Saved, how: Scoring) -> Gradients:
        q, k, v, out, lse = saved
        table, longest = how.documents.table, how.documents.longest
        width = -(-longest // 32) * 32
        padded = lse.new_full((len(lse), (len(table) - 1) * width), float("inf"))
        padded[:, self.place(how.documents, len(q), width)] = lse
        padded = padded.unflatten(1, (-1, width)).transpose(0, 1).contiguous()
        state = torch.empty((), dtype=torch.int64, device=q.device)  # of dropout's generator
        queries, keys, values = self.heads(q, k, v)
        dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
            _dense_features(dout)[None], queries, keys, values, None, _dense_features(out)[None],
            table, table, longest, longest, padded, 0.0, state, state, 1, False,
            scale=how.scale, window_size=how.window,
        )  # fmt: skip
        return dq[0], *(d[0].unflatten(1, (k.shape[1], -1)).sum(2) for d in (dk, dv))

    def heads(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        group = q.shape[1] // k.shape[1]
        expanded = (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        return [_dense_features(x)[None] for x in expanded]

    def place(self, documents: Documents, tokens: int, width: int) -> Tensor:
        """Where each token's log-sum-exp is in (documents * width)."""
        token = torch.arange(tokens, device=documents.table.device)
        document = torch.bucketize(token, documents.table[1:], right=True)
        return document * width + token - documents.table[document]


def _dense_features(x: Tensor) -> Tensor:
    """The kernels read any strides but the last."""
    return x if x.stride(-1) == 1 else x.contiguous()
