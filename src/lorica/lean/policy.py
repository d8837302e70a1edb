"""What a layer keeps for its backward pass, and what it computes again: never a change of the result.

Bytes and work are traded layer by layer. Norms and activations are computed again under every policy: keeping them
would cost half as much memory again for one per cent of the time.
"""

from dataclasses import dataclass
from typing import Literal

import torch

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


@dataclass(frozen=True)
class LayerShape:
    """Features of a layer: `query` and `key` are all heads' together. `post_norms` counts the norms that follow a
    half's last projection, whose input has to be kept."""

    hidden: int
    query: int
    key: int
    intermediate: int
    heads: int
    post_norms: int = 0


def saved_bytes(shape: LayerShape, policy: Policy, tokens: int, dtype: torch.dtype) -> int:
    """Bytes on the device that a layer holds between its forward and its backward pass.

    With everything kept that is (2 hidden + 2 query + 2 key + 2 intermediate) elements a token, and attention's
    log-sum-exp in fp32.
    """
    elements = 0 if policy.offload else shape.hidden
    if policy.keep in ("all", "attention"):
        elements += shape.query
    if policy.keep == "all":
        elements += shape.hidden + shape.query + 2 * shape.key + (1 if shape.post_norms else 0) * shape.hidden
    if policy.keep == "all" and policy.mlp_tokens is None:
        elements += 2 * shape.intermediate + (shape.hidden if shape.post_norms > 1 else 0)
    lse = shape.heads * torch.promote_types(dtype, torch.float32).itemsize if policy.keep != "input" else 0
    return tokens * (elements * dtype.itemsize + lse)
