"""What stays a model's own: modules called as the model calls them, through ordinary autograd, and the layers that are
made of them whole or in half."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lean.chunks import in_chunks
from lorica.lean.half import Half, lean_half
from lorica.lean.pack import Inputs, Pack
from lorica.lean.policy import KEEP_ALL, Policy
from lorica.lean.recompute import recomputed
from lorica.lean.trace import first

# What a module is called with once more, from what it reads (lanes, tokens, hidden) of other tokens.
Arguments = Callable[[Tensor, Inputs], tuple[list[Any], dict[str, Any]]]


@dataclass(frozen=True)
class OwnModule:
    """A module of the model; a `masked` one is given a mask."""

    module: nn.Module
    arguments: Arguments
    masked: bool

    def __call__(self, hidden: Tensor, pack: Pack) -> Tensor:
        """From (lanes, tokens, hidden)."""
        assert pack.inputs is not None
        args, kwargs = self.arguments(hidden, pack.inputs)
        return first(self.module(*args, **kwargs)).reshape(hidden.shape)


@dataclass(frozen=True)
class OwnHalf:
    """`y = x + multiplier * post(f(pre(x)))`, where f is the sum of `modules`."""

    modules: list[OwnModule]
    pre: nn.Module | None
    post: nn.Module | None
    multiplier: float

    def __call__(self, x: Tensor, pack: Pack) -> Tensor:
        """Hidden states (rows, hidden) to hidden states."""
        x = x.unflatten(0, (pack.lanes, -1))
        read = x if self.pre is None else self.pre(x)
        added = reduce(torch.add, [module(read, pack) for module in self.modules])
        added = added if self.post is None else self.post(added)
        return torch.add(x, added, alpha=self.multiplier).flatten(0, 1)


@dataclass
class HalfLeanLayer:
    """`lean` in the `place`, 0 or 1, of one of the two halves that are the model's own. `module` is its layer, and
    `reason` says which half is in use and why."""

    module: nn.Module
    own: tuple[OwnHalf, OwnHalf]
    lean: Half
    place: int
    reason: str
    policy: Policy = KEEP_ALL

    def __call__(self, x: Tensor, pack: Pack) -> Tensor:
        """Hidden states (rows, hidden) to hidden states. Differentiable once."""
        if self.policy.keep == "input":
            return recomputed(self.forward, self.module, x, pack, self.policy)
        return self.forward(x, pack)

    def forward(self, x: Tensor, pack: Pack) -> Tensor:
        """Under a policy that keeps the layer's input alone, it is from there that all is kept while it is needed."""
        policy = KEEP_ALL if self.policy.keep == "input" else self.policy
        lean = in_chunks(self.lean, self.policy.mlp_tokens)
        if self.place == 0:
            return self.own[1](lean_half(lean, x, pack, policy), pack)
        return lean_half(lean, self.own[0](x, pack), pack, policy)

    @property
    def masked(self) -> bool:
        return any(module.masked for module in self.own[1 - self.place].modules)


@dataclass
class PlainLayer:
    """A layer of the model as it is, and why."""

    own: OwnModule
    reason: str
    policy: Policy = KEEP_ALL

    def __call__(self, x: Tensor, pack: Pack) -> Tensor:
        """Hidden states (rows, hidden) to hidden states."""
        if self.policy.keep == "input":
            return recomputed(self.forward, self.own.module, x, pack, self.policy)
        return self.forward(x, pack)

    def forward(self, x: Tensor, pack: Pack) -> Tensor:
        return self.own(x.unflatten(0, (pack.lanes, -1)), pack).flatten(0, 1)

    @property
    def masked(self) -> bool:
        return self.own.masked
