"""What a layer keeps for its backward pass, and what it computes again: never a change of the result.

Bytes and work are traded layer by layer. Norms and activations are computed again under every policy: keeping them
would cost half as much memory again for one per cent of the time.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Keep = Literal["all", "attention", "input"]


@dataclass(frozen=True)
class Policy:
    """`keep`: "all" computes no matrix product twice; "attention" keeps the layer's input and attention's output, and
    computes all projections but `down` again; "input" keeps the input alone. `offload` moves the kept input to host
    memory. `mlp_tokens` computes the MLP so many tokens at a time, and gate and up again whatever else is kept."""

    keep: Keep = "all"
    offload: bool = False
    mlp_tokens: int | None = None


KEEP_ALL = Policy()


def to_keep(x: Tensor, policy: Policy) -> Tensor:
    """`x`, or a copy in host memory; from a GPU into pinned memory, without waiting for it."""
    if not policy.offload:
        return x
    host = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=x.is_cuda)
    return host.copy_(x, non_blocking=True)


def from_kept(x: Tensor, device: torch.device) -> Tensor:
    """What was kept, on `device` again."""
    return x.to(device, non_blocking=True)


@dataclass(frozen=True)
class LayerShape:
    """Features of a layer: `query` and `key` are all heads' together; a half that is not lean has none. Of a half whose
    last projection a norm follows (`normed_attention`, `normed_mlp`) that norm's input has to be kept."""

    hidden: int
    query: int = 0
    key: int = 0
    intermediate: int = 0
    heads: int = 0
    normed_attention: bool = False
    normed_mlp: bool = False


def saved_bytes(shape: LayerShape, policy: Policy, tokens: int, dtype: torch.dtype) -> int:
    """Bytes on the device that a layer, or its lean half, holds between its forward and its backward pass.

    With everything kept that is (2 hidden + 2 query + 2 key + 2 intermediate) elements a token, and attention's
    log-sum-exp in fp32.
    """
    elements = 0 if policy.offload else shape.hidden
    if policy.keep in ("all", "attention"):
        elements += shape.query
    if policy.keep == "all":
        elements += shape.query + 2 * shape.key + shape.normed_attention * shape.hidden
        elements += shape.hidden if shape.query and shape.intermediate else 0  # what is between two lean halves
    if policy.keep == "all" and policy.mlp_tokens is None:
        elements += 2 * shape.intermediate + shape.normed_mlp * shape.hidden
    lse = shape.heads * torch.promote_types(dtype, torch.float32).itemsize if policy.keep != "input" else 0
    return tokens * (elements * dtype.itemsize + lse)
