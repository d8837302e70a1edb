"""What surrounds each half of a decoder layer: `y = x + multiplier * post(f(pre(x)))`, with either norm or both."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.lean.norm import Norm


@dataclass(frozen=True)
class Residual:
    """`pre` is None for models that norm a half's output only (OLMo 2), `post` for those that norm its input only
    (Llama); Gemma does both. `multiplier` is Granite's."""

    pre: Norm | None
    post: Norm | None
    multiplier: float = 1.0

    def normalised(self, x: Tensor) -> Tensor:
        """What the half reads; (rows, hidden) as is everything here."""
        return x if self.pre is None else self.pre.forward(x)

    def add(self, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor | None]:
        """The half's output, and `added` again if the backward pass needs it; otherwise its memory is used."""
        if self.post is None:
            return torch.add(x, added, alpha=self.multiplier, out=added), None
        normed = self.post.forward(added)
        return torch.add(x, normed, alpha=self.multiplier, out=normed), added

    def added_backward(self, dy: Tensor, added: Tensor | None) -> Tensor:
        """The gradient of `added`. `dy` is left as it is."""
        if self.post is None:
            return dy if self.multiplier == 1.0 else dy * self.multiplier
        assert added is not None
        return self.post.backward(dy * self.multiplier, added)

    def backward(self, dy: Tensor, d_normalised: Tensor, x: Tensor) -> Tensor:
        """The gradient of `x` by both ways, in d_normalised's memory."""
        if self.pre is None:
            return d_normalised.add_(dy)
        return self.pre.backward(d_normalised, x, residual=dy)
