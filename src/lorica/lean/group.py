"""Linear layers that read one input, adapted or not: `y_i = x W_i^T + s_i x A_i^T B_i^T`.

The input is read once for all low-rank products, whose A's lie one under another, and the scale is folded into the
product with B. In the backward pass the gradient of the input is summed in one buffer, no gradient of a frozen weight
is formed, and nothing is kept but what the caller keeps: `x A^T` costs less to compute again than to save. With
dropout each layer sees an input of its own, whose mask is made again from the tokens' keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lorica.lean.frozen import project, project_back
from lorica.lean.lanes import add_product_, by_lane, outer, product, scaled_
from lorica.lean.members import Member, base_of, members_of, stacked_down, without_bias
from lorica.lean.pack import Pack


@dataclass(frozen=True)
class Group:
    """`modules` are frozen projections, or LoRA layers on them. `widths` are the parts of a fused layer's output."""

    modules: tuple[nn.Module, ...]
    widths: tuple[int, ...] = ()

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the order of their gradients."""
        return [parameter for member in members_of(self.modules) for parameter in member.parameters()]

    def forward(self, x: Tensor, pack: Pack) -> list[Tensor]:
        """Outputs (rows, out) for an input (rows, in): one a module, or one a part of a fused layer."""
        members = members_of(self.modules)
        outputs = self.without_magnitude(x, members, pack)
        for member in members:
            if member.layer.magnitude is not None:
                outputs[member.place] = member.rescaled(outputs[member.place])
        return list(outputs[0].split(self.widths, -1)) if self.widths else outputs

    def without_magnitude(self, x: Tensor, members: list[Member], pack: Pack) -> list[Tensor]:
        """The outputs before DoRA's magnitude."""
        outputs = [project(base_of(module), x) for module in self.modules]
        for inputs, readers in by_input(x, members, pack):
            z = product(inputs, stacked_down(readers, x.dtype).mT)  # (rows, the readers' ranks together)
            for member in readers:
                columns = z[:, member.columns_among(readers)]
                add_product_(outputs[member.place], columns, member.up(x.dtype).mT, member.layer.scale)
        return outputs

    def backward(self, gradients: list[Tensor], pack: Pack) -> GroupBackward:
        """From the outputs' gradients, which are left as they are."""
        return GroupBackward(self, [torch.cat(gradients, -1)] if self.widths else gradients, pack)


def by_input(x: Tensor, members: list[Member], pack: Pack) -> list[tuple[Tensor, list[Member]]]:
    """The inputs of the low-rank paths and who reads each: one for all, and one for each that drops of its own."""
    together = [member for member in members if not member.drops]
    alone = [(member.dropped(x, pack), [member]) for member in members if member.drops]
    return [(x, together), *alone] if together else alone


@dataclass
class GroupBackward:
    """The backward pass of a group: that of its input does not need the input, that of its parameters does."""

    group: Group
    gradients: list[Tensor]
    pack: Pack
    members: list[Member] = field(init=False)
    low_rank: dict[int, Tensor] = field(init=False)  # by place: the gradient (rows, rank) of `x A^T`

    def __post_init__(self) -> None:
        self.members = members_of(self.group.modules)
        # What reaches the low-rank path and the weight: with DoRA, the outputs' gradients times magnitude / norm.
        self.inner = list(self.gradients)
        for member in self.members:
            if member.layer.magnitude is not None:
                self.inner[member.place] = member.times_ratio(self.gradients[member.place])
        self.low_rank = {member.place: self._low_rank(member) for member in self.members}

    def _low_rank(self, member: Member) -> Tensor:
        dy = self.inner[member.place]
        return scaled_(product(dy, member.up(dy.dtype)), member.layer.scale)

    def input(self) -> Tensor:
        """The gradient (rows, in) of the input."""
        dx: Tensor | None = None
        for module, dy in zip(self.group.modules, self.inner, strict=True):
            dx = project_back(base_of(module), dy, into=dx)
        assert dx is not None
        together = [member for member in self.members if not member.drops]
        if together:
            add_product_(dx, self._joined(together), stacked_down(together, dx.dtype))
        for member in self.members:
            if member.drops:
                back = product(self.low_rank[member.place], stacked_down([member], dx.dtype))
                dx.add_(member.dropped(back, self.pack))
        return dx

    def parameters(self, x: Tensor) -> list[Tensor]:
        """The gradients of `group.parameters()`, fp32, from the group's input."""
        found: dict[nn.Parameter, Tensor] = self._magnitudes(x)
        for inputs, readers in by_input(x, self.members, self.pack):
            z = product(inputs, stacked_down(readers, x.dtype).mT)
            d_down = outer(self._joined(readers), inputs, self.pack.lanes)
            for member in readers:
                trained = member.trained_among(readers)
                found[member.layer.lora_A] = d_down[:, trained]
                d_up = outer(self.inner[member.place], z[:, trained], self.pack.lanes)
                found[member.layer.lora_B] = d_up.mul_(member.layer.scale)
        return [found[parameter] for parameter in self.group.parameters()]

    def _joined(self, members: list[Member]) -> Tensor:
        parts = [self.low_rank[member.place] for member in members]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _magnitudes(self, x: Tensor) -> dict[nn.Parameter, Tensor]:
        """DoRA's `y = magnitude / norm * u`, whose u's are computed again."""
        found: dict[nn.Parameter, Tensor] = {}
        if any(member.layer.magnitude is not None for member in self.members):
            outputs = self.group.without_magnitude(x, self.members, self.pack)
            for member in self.members:
                if member.layer.magnitude is not None:
                    along = without_bias(outputs[member.place], member.layer) * self.gradients[member.place]
                    summed = by_lane(along, self.pack.lanes).sum(1, dtype=torch.float32)
                    found[member.layer.magnitude] = summed / member.layer.weight_norm()
        return found
