"""Each kernel's forward and backward chained by autograd, as the lean layers chain them; for gradcheck."""

from typing import Any

import torch
from torch import Tensor

from lorica.kernels import (
    Documents,
    attention,
    attention_backward,
    cross_entropy_,
    gated,
    gated_backward,
    rms_norm,
    rms_norm_backward,
    rotate_,
)


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.offset = eps, offset
        return rms_norm(x, weight, eps, offset, round_first=offset == 0)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        return rms_norm_backward(dy[0], x, weight, ctx.eps, ctx.offset), None, None, None


class Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return rotate_(x.clone(), cos, sin, interleaved)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return rotate_(dy[0].clone(), cos, sin, ctx.interleaved, inverse=True), None, None, None


class Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str, overwrite: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation, ctx.overwrite = activation, overwrite
        return gated(gate, up, activation)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        gate, up = ctx.saved_tensors
        arguments = (upstream[0].clone(), gate.clone(), up.clone())
        product, d_gate, d_up = gated_backward(*arguments, ctx.activation, ctx.overwrite)
        torch.testing.assert_close(product, gated(gate, up, ctx.activation))
        return d_gate, d_up, None, None


class CrossEntropy(torch.autograd.Function):
    """The weighted sum of the losses, whose gradient was written while it was computed."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, coefficients: Tensor, *settings: float) -> Tensor:
        gradient = logits.clone()
        losses = cross_entropy_(gradient, labels, coefficients, *settings)
        ctx.save_for_backward(gradient)
        ctx.settings = len(settings)
        return (losses * coefficients).sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None, None, *(None for _ in range(ctx.settings))


class Attention(torch.autograd.Function):
    """q, k, v -> attention's output, by the kernel that the device and the settings choose."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, documents: Documents, *settings: Any) -> Tensor:
        out, lse = attention(q, k, v, documents, *settings)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.settings = (documents, *settings)
        return out

    @staticmethod
    def backward(ctx: Any, *dout: Tensor) -> tuple[Any, ...]:
        gradients = attention_backward(dout[0], *ctx.saved_tensors, *ctx.settings)
        return *gradients, *(None for _ in ctx.settings)
