"""A decoder layer as one step of autograd: both halves forwards, both backwards, and between them what the policy
keeps."""

from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lean.attention import Attention
from lorica.lean.chunks import in_chunks
from lorica.lean.half import Half
from lorica.lean.mlp import Mlp
from lorica.lean.pack import Pack
from lorica.lean.policy import KEEP_ALL, Policy, from_kept, to_keep


@dataclass
class LeanLayer:
    """Shares the parameters of a model's own layer and computes the same."""

    attention: Attention
    mlp: Mlp
    policy: Policy = KEEP_ALL
    masked = False

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
        return self.mlp_in_use.forward(middle, pack)[0]

    @property
    def mlp_in_use(self) -> Half:
        return in_chunks(self.mlp, self.policy.mlp_tokens)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LeanLayer, pack: Pack, *parameters: Tensor) -> Tensor:
        keep, attention, mlp = layer.policy.keep, layer.attention, layer.mlp_in_use
        ctx.layer, ctx.pack, ctx.device = layer, pack, x.device
        middle, attended = attention.forward(x, pack)
        y, gated = mlp.forward(middle, pack)
        between = [middle] if keep == "all" else []
        kept = [[to_keep(x, layer.policy)], attention.part(attended, keep), between, mlp.part(gated, keep)]
        ctx.save_for_backward(*chain(*kept), *parameters)
        ctx.counts = [len(part) for part in kept]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        attention, mlp, pack, needs_input = ctx.layer.attention, ctx.layer.mlp_in_use, ctx.pack, ctx.needs_input_grad[0]
        saved = iter(ctx.saved_tensors)
        [x], attended, between, gated = (tuple(islice(saved, count)) for count in ctx.counts)
        x = from_kept(x, ctx.device)
        attended = attention.whole(x, attended, pack)
        if between:
            [middle] = between
        else:
            middle, attended = attention.joined(x, attended, pack)
        below = needs_input or bool(attention.parameters())
        d_middle, d_mlp = mlp.backward(dy, middle, mlp.whole(middle, gated, pack), pack, below)
        if d_middle is None:
            return None, None, None, *d_mlp
        dx, d_attention = attention.backward(d_middle, x, attended, pack, needs_input)
        return dx, None, None, *d_attention, *d_mlp
