"""Linear layers that read one input, adapted or not: `y_i = x W_i^T + s_i x A_i^T B_i^T`.

The input is read once for all low-rank products, whose A's lie one under another, and the scale is folded into the
product with B. In the backward pass the gradient of the input is summed in one buffer, no gradient of a frozen weight
is formed, and nothing is kept but what the caller keeps: `x A^T` costs less to compute again than to save. With
dropout each layer sees an input of its own, whose mask is made again from the tokens' keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorica.lean.frozen import project, project_back
from lorica.lean.lanes import add_product_, by_lane, outer, product, scaled_, with_lanes
from lorica.lean.members import Readers, base_of, members_of, parameters_of, readers_of, without_bias
from lorica.lean.pack import Pack
from lorica.lora.layer import LoraLinear


@dataclass(frozen=True)
class Group:
    """`modules` are frozen projections, or LoRA layers on them. `widths` are the parts of a fused layer's output."""

    modules: tuple[nn.Module, ...]
    widths: tuple[int, ...] = ()

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the order of their gradients."""
        return [p for m in self.modules if isinstance(m, LoraLinear) and m.in_use for p in parameters_of(m)]

    def forward(self, x: Tensor, pack: Pack) -> list[Tensor]:
        """Outputs (rows, out) for an input (rows, in): one a module, or one a part of a fused layer."""
        members = members_of(self.modules, x.dtype)
        outputs = self.without_magnitude(x, readers_of(members), pack)
        for member in members:
            if member.magnitude is not None:
                outputs[member.place] = member.rescaled(outputs[member.place])
        return list(outputs[0].split(self.widths, -1)) if self.widths else outputs

    def without_magnitude(self, x: Tensor, readers: list[Readers], pack: Pack) -> list[Tensor]:
        """The outputs before DoRA's magnitude."""
        outputs = [project(base_of(module), x) for module in self.modules]
        for together in readers:
            z = product(together.dropped(x, pack), together.down.mT)  # (rows, the readers' ranks together)
            for member, part in together.apart(z, 1):
                add_product_(outputs[member.place], part, member.up.mT, member.scale)
        return outputs

    def backward(self, gradients: list[Tensor], pack: Pack) -> GroupBackward:
        """From the outputs' gradients, which are left as they are."""
        return GroupBackward(self, [torch.cat(gradients, -1)] if self.widths else gradients, pack)


class GroupBackward:
    """The backward pass of a group: that of its input does not need the input, that of its parameters does."""

    def __init__(self, group: Group, gradients: list[Tensor], pack: Pack) -> None:
        self.group, self.gradients, self.pack = group, gradients, pack
        self.members = members_of(group.modules, gradients[0].dtype)
        self.readers = readers_of(self.members)
        # What reaches the low-rank path and the weight: with DoRA, the outputs' gradients times magnitude / norm.
        self.inner = list(gradients)
        for member in self.members:
            if member.magnitude is not None:
                self.inner[member.place] = member.times_ratio(gradients[member.place])
        self.low_rank = [self._low_rank(together) for together in self.readers]

    def _low_rank(self, readers: Readers) -> Tensor:
        """The gradient (rows, ranks) of the readers' `x A^T`."""
        parts = [scaled_(product(self.inner[m.place], m.up), m.scale) for m in readers.members]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def input(self) -> Tensor:
        """The gradient (rows, in) of the input."""
        dx: Tensor | None = None
        for module, dy in zip(self.group.modules, self.inner, strict=True):
            dx = project_back(base_of(module), dy, into=dx)
        assert dx is not None
        for readers, low_rank in zip(self.readers, self.low_rank, strict=True):
            if readers.drops:
                dx.add_(readers.dropped(product(low_rank, readers.down), self.pack))
            else:
                add_product_(dx, low_rank, readers.down)
        return dx

    def parameters(self, x: Tensor) -> list[Tensor]:
        """The gradients of `group.parameters()`, fp32, from the group's input."""
        found: dict[int, list[Tensor]] = {}  # by place
        for readers, low_rank in zip(self.readers, self.low_rank, strict=True):
            inputs = readers.dropped(x, self.pack)
            z = product(inputs, readers.down.mT)
            d_down = outer(low_rank, inputs, self.pack.lanes)
            for (member, d_part), (_, z_part) in zip(readers.apart(d_down, -2), readers.apart(z, 1), strict=True):
                d_up = outer(self.inner[member.place], member.trained(z_part, 1), self.pack.lanes)
                found[member.place] = [with_lanes(member.trained(d_part, -2)), with_lanes(member.times_scale_(d_up))]
        self._add_magnitudes(x, found)
        return [gradient for member in self.members for gradient in found[member.place]]

    def _add_magnitudes(self, x: Tensor, found: dict[int, list[Tensor]]) -> None:
        """Of DoRA's `y = magnitude / norm * u`, whose u's are computed again."""
        if all(member.magnitude is None for member in self.members):
            return
        outputs = self.group.without_magnitude(x, self.readers, self.pack)
        for member in self.members:
            if member.magnitude is not None:
                along = without_bias(outputs[member.place], member.layer) * self.gradients[member.place]
                summed = by_lane(along, self.pack.lanes).sum(1, dtype=torch.float32)
                found[member.place].append(summed / member.layer.weight_norm())
