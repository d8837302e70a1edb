"""Trained parameters side by side in one tensor, and their gradients in another.

An adapter has hundreds of small parameters. Laid end to end, one clip and one optimiser kernel serve them all, and
autograd adds every gradient into place. Each parameter stays what it was, under its name: a view of the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 16  # elements: 64 bytes of fp32, what vector loads want a matrix to begin at


@dataclass(frozen=True)
class Buffer:
    """`value` (elements,) holds all members by name, of the given `shapes` and at `offsets`; `value.grad` holds their
    gradients."""

    shapes: dict[str, torch.Size]
    offsets: dict[str, int]
    value: nn.Parameter

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each member's part of a tensor laid out like `value`, in the member's shape."""
        return {name: flat[self.offsets[name] :][: shape.numel()].view(shape) for name, shape in self.shapes.items()}


def join(members: Mapping[str, nn.Parameter]) -> Buffer:
    """Move parameters of one dtype and device into a buffer; their gradients start at zero."""
    offsets, end = {}, 0
    for name, member in members.items():
        offsets[name] = end
        end += -(-member.numel() // ALIGNMENT) * ALIGNMENT
    first = next(iter(members.values()))
    value = nn.Parameter(torch.zeros(end, dtype=first.dtype, device=first.device))
    value.grad = torch.zeros_like(value)
    buffer = Buffer({name: member.shape for name, member in members.items()}, offsets, value)
    gradients = buffer.views(value.grad)
    for name, view in buffer.views(value.detach()).items():
        view.copy_(members[name].detach())
        members[name].data, members[name].grad = view, gradients[name]
    return buffer
