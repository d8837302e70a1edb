"""Cross-entropy of a chunk of logits, with its gradient written over them.

A chunk of logits is the largest tensor of a training step, and it is dead once the loss is known: overwriting it with
its gradient (as Liger does, Hsu et al. 2024, https://arxiv.org/abs/2410.10989) means that it is never held twice.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.kernels.dispatch import is_traced, runs_triton
from lorica.kernels.dtypes import widened


def cross_entropy(logits: Tensor, labels: Tensor, scale: float = 1.0, softcap: float = 0.0) -> tuple[Tensor, Tensor]:
    """Loss (nats, fp32) and argmax hit (bool) of each row, both (rows,).

    `logits`: (rows, vocabulary), left as they are; `labels`: (rows,) int64 within the vocabulary. The logits that the
    loss is of are `scale * logits`, or `softcap * tanh(scale * logits / softcap)` where `softcap` is not 0 (Gemma 2,
    https://arxiv.org/abs/2408.00118).
    """
    losses = _operator if is_traced(logits) else _cross_entropy
    return losses(logits, labels, scale, softcap)


def cross_entropy_(
    logits: Tensor, labels: Tensor, coefficients: Tensor, scale: float = 1.0, softcap: float = 0.0
) -> Tensor:
    """The losses alone, and `logits` become the gradient of `sum(coefficients * losses)`, in their type.

    `coefficients`: (rows,), in a training step each token's weight over the weights' total. A row of coefficient 0
    gives a zero gradient, so a chunk may be filled up with such rows.
    """
    losses: Callable[..., Tensor] = _gradient_operator if is_traced(logits) else _cross_entropy_
    return losses(logits, labels, coefficients, scale, softcap)


def cross_entropy_reference(
    logits: Tensor, labels: Tensor, scale: float = 1.0, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    z = widened(logits) * scale if scale != 1.0 else widened(logits)
    z = torch.tanh(z / softcap).mul_(softcap) if softcap else z
    losses = F.cross_entropy(z, labels, reduction="none")
    return losses, z.argmax(-1) == labels


def cross_entropy_reference_(
    logits: Tensor, labels: Tensor, coefficients: Tensor, scale: float = 1.0, softcap: float = 0.0
) -> Tensor:
    z = widened(logits)  # the logits themselves or their fp32 copy: all that follows is written over it
    capped = apply_model_scaling_(z, scale, softcap)
    largest = z.amax(-1)
    labelled = z.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    torch.softmax(z, -1, out=z)
    # The largest probability is exp(0) / sum, so it holds the sum that the loss needs.
    losses = (largest - labelled) - z.amax(-1).log()
    weights = coefficients.to(z.dtype).unsqueeze(-1)  # (rows, 1)
    z.mul_(weights).scatter_add_(-1, labels.unsqueeze(-1), -weights)
    if capped is not None:
        z.addcmul_(z, capped.square_(), value=-1)  # the slope of softcap * tanh is 1 - tanh^2
    if scale != 1.0:
        z.mul_(scale)
    if z is not logits:
        logits.copy_(z)
    return losses


def apply_model_scaling_(logits: Tensor, scale: float, softcap: float) -> Tensor | None:
    """Scale and cap in place; returns the tanh of a cap."""
    if scale != 1.0:
        logits.mul_(scale)
    if not softcap:
        return None
    capped = torch.tanh(logits.div_(softcap))
    torch.mul(capped, softcap, out=logits)
    return capped


def _cross_entropy(logits: Tensor, labels: Tensor, scale: float, softcap: float) -> tuple[Tensor, Tensor]:
    if runs_triton(logits):
        from lorica.kernels.triton.cross_entropy import cross_entropy_triton

        return cross_entropy_triton(logits, labels, scale, softcap)
    return cross_entropy_reference(logits, labels, scale, softcap)


def _cross_entropy_(logits: Tensor, labels: Tensor, coefficients: Tensor, scale: float, softcap: float) -> Tensor:
    if runs_triton(logits):
        from lorica.kernels.triton.cross_entropy import cross_entropy_triton_

        return cross_entropy_triton_(logits, labels, coefficients, scale, softcap)
    return cross_entropy_reference_(logits, labels, coefficients, scale, softcap)


_operator = torch.library.custom_op("lorica::cross_entropy", _cross_entropy, mutates_args=())
_gradient_operator = torch.library.custom_op("lorica::cross_entropy_", _cross_entropy_, mutates_args={"logits"})


@_operator.register_fake
def _(logits: Tensor, labels: Tensor, scale: float, softcap: float) -> tuple[Tensor, Tensor]:
    losses = losses_of(logits)
    return losses, torch.empty_like(losses, dtype=torch.bool)


@_gradient_operator.register_fake
def _(logits: Tensor, labels: Tensor, coefficients: Tensor, scale: float, softcap: float) -> Tensor:
    return losses_of(logits)


def losses_of(logits: Tensor) -> Tensor:
    """Without values."""
    return logits.new_empty(logits.shape[0], dtype=torch.promote_types(logits.dtype, torch.float32))
