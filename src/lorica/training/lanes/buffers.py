"""The lanes' parameters in memory: one row of a matrix a lane, so that each lane has flat buffers of its own.

A layer's `lora_A` (lanes, r, in) is then a view with the stride of a whole lane between lanes, its gradient likewise,
and a lane is clipped and stepped by the optimiser of a lone run over a flat buffer of a lone run's order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lorica.training.buffers import ALIGNMENT, Buffer


def lane_buffers(members: Mapping[str, nn.Parameter], lanes: int) -> list[Buffer]:
    """Move parameters (lanes, ...) of one dtype and device into a buffer for each lane; gradients start at zero."""
    offsets, end = {}, 0
    for name, member in members.items():
        offsets[name] = end
        end += -(-(member.numel() // lanes) // ALIGNMENT) * ALIGNMENT
    first = next(iter(members.values()))
    values = torch.zeros(lanes, end, dtype=first.dtype, device=first.device)
    gradients = torch.zeros_like(values)
    for name, member in members.items():
        view, gradient = (_across(matrix, offsets[name], member) for matrix in (values, gradients))
        view.copy_(member.detach())
        member.data, member.grad = view, gradient
    return [_lane(lane, members, offsets, values, gradients) for lane in range(lanes)]


def _across(matrix: Tensor, offset: int, member: nn.Parameter) -> Tensor:
    """The member's columns of all lanes, in its shape (lanes, ...)."""
    return matrix[:, offset : offset + member.numel() // len(member)].unflatten(1, member.shape[1:])


def _lane(
    lane: int, members: Mapping[str, nn.Parameter], offsets: dict[str, int], values: Tensor, gradients: Tensor
) -> Buffer:
    value = nn.Parameter(values[lane])
    value.grad = gradients[lane]
    return Buffer({name: torch.Size([1, *member.shape[1:]]) for name, member in members.items()}, offsets, value)
