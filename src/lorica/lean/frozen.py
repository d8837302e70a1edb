"""What a lean layer asks of a frozen projection: its product, and the way back for a gradient.

A dense layer answers here. A packed one, whose weight is no matrix of numbers, answers for itself: it is a module that
computes `x W^T (+ bias)` when called and has a method `project_back(dy)` for `dy W`.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class Projection(Protocol):
    """A frozen linear map in a format of its own."""

    def __call__(self, x: Tensor) -> Tensor:
        """`x W^T (+ bias)`: (tokens, in) to (tokens, out)."""

    def project_back(self, dy: Tensor) -> Tensor:
        """`dy W`: (tokens, out) to (tokens, in), the gradient of the input."""


def is_projection(module: nn.Module) -> bool:
    """Whether a lean layer can compute with `module`: a torch linear layer as it is, or a packed one."""
    return type(module) is nn.Linear or isinstance(module, Projection)


def project(base: nn.Module, x: Tensor) -> Tensor:
    """`x W^T (+ bias)` (tokens, out) of a frozen projection; `x` is (tokens, in)."""
    if isinstance(base, nn.Linear):
        return F.linear(x, base.weight, base.bias)
    y: Tensor = base(x)
    return y


def project_back(base: nn.Module, dy: Tensor, into: Tensor | None = None) -> Tensor:
    """The gradient `dy W` (tokens, in) of the input; with `into` it is added there, in place."""
    if isinstance(base, nn.Linear):
        return torch.mm(dy, base.weight) if into is None else into.addmm_(dy, base.weight)
    assert isinstance(base, Projection)
    dx = base.project_back(dy)
    return dx if into is None else into.add_(dx)
