"""Half a decoder layer as one step of autograd, and what it has in common with a whole one."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lorica.lean.pack import Pack
from lorica.lean.policy import KEEP_ALL, Keep, Policy, from_kept, to_keep


class Half(Protocol):
    """`y = x + m * post(f(pre(x)))` with a backward pass of its own: attention, or an MLP."""

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters in use, in the order of their gradients."""

    def forward(self, x: Tensor, pack: Pack) -> tuple[Tensor, Any]:
        """`x`: (rows, hidden). Returns the half's output and what its backward pass needs."""

    def part(self, kept: Any, keep: Keep) -> tuple[Any, ...]:
        """What of it is kept."""

    def whole(self, x: Tensor, part: tuple[Any, ...], pack: Pack) -> Any:
        """What `forward` kept from a part of it, without the products that nobody would read."""

    def backward(
        self, dy: Tensor, x: Tensor, kept: Any, pack: Pack, needs_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of `x`, if needed, and of the parameters. May use up what was kept."""


def lean_half(half: Half, x: Tensor, pack: Pack, policy: Policy = KEEP_ALL) -> Tensor:
    """Hidden states (rows, hidden) to hidden states. Differentiable once."""
    parameters = half.parameters()
    if torch.is_grad_enabled() and (x.requires_grad or parameters):
        y: Tensor = _Half.apply(x, half, pack, policy, *parameters)
        return y
    return half.forward(x, pack)[0]


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, half: Half, pack: Pack, policy: Policy, *parameters: Tensor) -> Tensor:
        ctx.half, ctx.pack, ctx.device = half, pack, x.device
        y, kept = half.forward(x, pack)
        part = half.part(kept, policy.keep)
        ctx.save_for_backward(to_keep(x, policy), *part, *parameters)
        ctx.count = 1 + len(part)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved, *part = ctx.saved_tensors[: ctx.count]
        x = from_kept(saved, ctx.device)
        kept = ctx.half.whole(x, tuple(part), ctx.pack)
        dx, gradients = ctx.half.backward(dy, x, kept, ctx.pack, ctx.needs_input_grad[0])
        return dx, None, None, None, *gradients
