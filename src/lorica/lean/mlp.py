"""The gated half of a decoder layer, forwards and backwards: `y = x + m * post(down(act(gate) * up))`, gate and up of
`pre(x)`.

Kept for the backward pass: gate and up. Their product is computed again with the gradients, and `down` only where a
norm follows it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from lorica.kernels import gated, gated_backward
from lorica.lean.group import Group
from lorica.lean.pack import Pack
from lorica.lean.policy import Keep
from lorica.lean.residual import Residual


class MlpKept(NamedTuple):
    """gate and up: (rows, features); `added`: what `down` gave, kept only where a norm follows it."""

    gate: Tensor
    up: Tensor
    added: Tensor | None


@dataclass(frozen=True)
class Mlp:
    """`activation` is one of `lorica.kernels.ACTIVATIONS`. `up_first`: the group computes up before gate."""

    gate_up: Group
    down: Group
    residual: Residual
    activation: str
    up_first: bool = False

    def parameters(self) -> list[nn.Parameter]:
        return self.gate_up.parameters() + self.down.parameters()

    def forward(self, x: Tensor, pack: Pack) -> tuple[Tensor, MlpKept]:
        """`x`: (rows, hidden). Returns the half's output and what its backward pass needs."""
        gate, up = self._gate_up(x, pack)
        [added] = self.down.forward(gated(gate, up, self.activation), pack)
        y, added_kept = self.residual.add(x, added)
        return y, MlpKept(gate, up, added_kept)

    def part(self, kept: MlpKept, keep: Keep) -> tuple[Any, ...]:
        """What of it is kept."""
        return kept if keep == "all" else ()

    def whole(self, x: Tensor, part: tuple[Any, ...], pack: Pack) -> MlpKept:
        """What `forward` kept from a part of it, without the product by `down` that nobody would read."""
        if part:
            return MlpKept(*part)
        gate, up = self._gate_up(x, pack)
        if self.residual.post is None:
            return MlpKept(gate, up, None)
        [added] = self.down.forward(gated(gate, up, self.activation), pack)
        return MlpKept(gate, up, added)

    def backward(
        self, dy: Tensor, x: Tensor, kept: MlpKept, pack: Pack, needs_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of `x`, if needed, and of the parameters of `gate_up` and `down`. Uses up what was kept."""
        inside = needs_input or bool(self.gate_up.parameters())
        if not inside and not self.down.parameters():
            return None, []
        down = self.down.backward([self.residual.added_backward(dy, kept.added)], pack)
        if not inside:
            return None, down.parameters(gated(kept.gate, kept.up, self.activation))
        product, d_gate, d_up = gated_backward(down.input(), kept.gate, kept.up, self.activation, overwrite=True)
        down_gradients = down.parameters(product)
        del product
        gate_up = self.gate_up.backward([d_up, d_gate] if self.up_first else [d_gate, d_up], pack)
        gradients = gate_up.parameters(self.residual.normalised(x)) + down_gradients
        return self.residual.backward(dy, gate_up.input(), x) if needs_input else None, gradients

    def _gate_up(self, x: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        first, second = self.gate_up.forward(self.residual.normalised(x), pack)
        return (second, first) if self.up_first else (first, second)
