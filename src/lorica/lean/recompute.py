"""A layer through ordinary autograd that keeps its input alone, and is computed again for its backward pass (Chen et
al. 2016, https://arxiv.org/abs/1604.06174)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lean.pack import Pack
from lorica.lean.policy import Policy, from_kept, to_keep


def recomputed(
    forward: Callable[[Tensor, Pack], Tensor], module: nn.Module, x: Tensor, pack: Pack, policy: Policy
) -> Tensor:
    """`forward(x, pack)`, which trains parameters of `module` alone. torch's own checkpoints keep the input where it
    is; the policy may have it moved to the host."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if torch.is_grad_enabled() and (x.requires_grad or parameters):
        y: Tensor = _Recomputed.apply(x, forward, pack, policy, *parameters)
        return y
    return forward(x, pack)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forward: Callable[[Tensor, Pack], Tensor], pack: Pack, policy: Policy, *parameters: Tensor
    ) -> Tensor:
        ctx.compute, ctx.pack, ctx.device = forward, pack, x.device
        ctx.save_for_backward(to_keep(x, policy), *parameters)
        return forward(x, pack)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, *parameters = ctx.saved_tensors
        needs_input = ctx.needs_input_grad[0]
        x = from_kept(kept, ctx.device).detach().requires_grad_(needs_input)
        with torch.enable_grad():
            y = ctx.compute(x, ctx.pack)
            wanted = [x, *parameters] if needs_input else parameters
            found = torch.autograd.grad(y, wanted, dy, allow_unused=True)
        return None if not needs_input else found[0], None, None, None, *found[len(found) - len(parameters) :]
