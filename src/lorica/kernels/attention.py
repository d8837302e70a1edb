"""Attention over packed documents, by document and in plain arithmetic."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """`offsets`: cumulative lengths, from 0 to the number of rows."""

    offsets: list[int]
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, lengths, device="cpu"):  # type: ignore
        offsets = [0]
        for length in lengths:
            offsets.append(offsets[-1] + length)
        return cls(offsets, device)

    @property
    def longest(self) -> int:
        return max(b - a for a, b in zip(self.offsets, self.offsets[1:]))


def _scores(q: Tensor, k: Tensor, scale: float, window: int | None, softcap: float) -> tuple[Tensor, Tensor | None]:
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    capped = None
    if softcap:
        capped = torch.tanh(scores / softcap)
        scores = capped * softcap
    distance = torch.arange(len(q))[:, None] - torch.arange(len(k))[None]
    allowed = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    return scores.masked_fill(~allowed, float("-inf")), capped


def attention(q, k, v, documents, scale, window=None, softcap=0.0):  # type: ignore
    group = q.shape[1] // k.shape[1]
    out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[:2], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    for a, b in zip(documents.offsets, documents.offsets[1:]):
        keys, values = (t[a:b].float().repeat_interleave(group, 1) if t.dtype == torch.bfloat16 else t[a:b].repeat_interleave(group, 1) for t in (k, v))
        scores, _ = _scores(q[a:b].to(keys.dtype), keys, scale, window, softcap)
        lse[a:b] = scores.logsumexp(-1).t()
        out[a:b] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(q.dtype)
    return out, lse


def attention_backward(dout, q, k, v, out, lse, documents, scale, window=None, softcap=0.0):  # type: ignore
    grads = [torch.empty(t.shape, dtype=t.dtype) for t in (q, k, v)]
    for a, b in zip(documents.offsets, documents.offsets[1:]):
        with torch.enable_grad():
            parts = [t[a:b].detach().float() if t.dtype == torch.bfloat16 else t[a:b].detach() for t in (q, k, v)]
            parts = [p.requires_grad_() for p in parts]
            group = q.shape[1] // k.shape[1]
            scores, _ = _scores(parts[0], parts[1].repeat_interleave(group, 1), scale, window, softcap)
            result = torch.einsum("hqk,khd->qhd", scores.softmax(-1), parts[2].repeat_interleave(group, 1))
        for total, found in zip(grads, torch.autograd.grad(result, parts, dout[a:b].to(result.dtype))):
            total[a:b] = found
    return tuple(grads)
