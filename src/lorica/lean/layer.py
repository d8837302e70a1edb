"""A decoder layer as one step of autograd: both halves forwards, both backwards, and between them what the policy
keeps."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lean.attention import Attention, AttentionKept
from lorica.lean.chunks import backward_in_chunks, forward_in_chunks
from lorica.lean.mlp import Mlp, MlpKept
from lorica.lean.pack import Pack
from lorica.lean.policy import KEEP_ALL, LayerShape, Policy


@dataclass
class LeanLayer:
    """Shares the parameters of a model's own layer and computes the same."""

    attention: Attention
    mlp: Mlp
    shape: LayerShape
    policy: Policy = KEEP_ALL

    def __call__(self, x: Tensor, pack: Pack) -> Tensor:
        """Hidden states (rows, hidden) to hidden states. Differentiable once."""
        parameters = self.parameters()
        if torch.is_grad_enabled() and (x.requires_grad or parameters):
            y: Tensor = _Layer.apply(x, self, pack, *parameters)
            return y
        return self.forward(x, pack)

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters in use, in the order of their gradients."""
        return self.attention.parameters() + self.mlp.parameters()

    def forward(self, x: Tensor, pack: Pack) -> Tensor:
        """With nothing kept."""
        middle = self.attention.forward(x, pack)[0]
        if self.policy.mlp_tokens is not None:
            return forward_in_chunks(self.mlp, middle, pack, self.policy.mlp_tokens)
        return self.mlp.forward(middle, pack)[0]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LeanLayer, pack: Pack, *parameters: Tensor) -> Tensor:
        policy = layer.policy
        ctx.layer, ctx.pack, ctx.device = layer, pack, x.device
        middle, attended = layer.attention.forward(x, pack)
        if policy.mlp_tokens is not None:
            y, gated = forward_in_chunks(layer.mlp, middle, pack, policy.mlp_tokens), None
        else:
            y, gated = layer.mlp.forward(middle, pack)
        kept: list[Tensor | None] = [_to_host(x) if policy.offload else x]
        if policy.keep == "attention":
            kept += [attended.out, attended.lse]
        if policy.keep == "all":
            kept += [*attended, middle, *(gated or ())]
        ctx.save_for_backward(*kept, *parameters)
        ctx.count = len(kept)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layer, pack, policy = ctx.layer, ctx.pack, ctx.layer.policy
        needs_input = ctx.needs_input_grad[0]
        kept = list(ctx.saved_tensors[: ctx.count])
        x = kept[0].to(ctx.device, non_blocking=True)
        gated = None
        if policy.keep == "input":
            middle, attended = layer.attention.forward(x, pack)
        elif policy.keep == "attention":
            middle, attended = layer.attention.again(x, kept[1], kept[2], pack)
        else:
            attended, middle = AttentionKept(*kept[1:7]), kept[7]
            gated = MlpKept(*kept[8:11]) if len(kept) > 8 else None
        below = needs_input or bool(layer.attention.parameters())
        if policy.mlp_tokens is not None:
            d_middle, mlp = backward_in_chunks(layer.mlp, dy, middle, pack, below, policy.mlp_tokens)
        else:
            gated = layer.mlp.again(middle, pack) if gated is None else gated
            d_middle, mlp = layer.mlp.backward(dy, middle, gated, pack, below)
        if d_middle is None:
            return None, None, None, *mlp
        dx, attention = layer.attention.backward(d_middle, x, attended, pack, needs_input)
        return dx, None, None, *attention, *mlp


def _to_host(x: Tensor) -> Tensor:
    """A copy in host memory; from a GPU into pinned memory, without waiting for it."""
    host = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=x.is_cuda)
    return host.copy_(x, non_blocking=True)
