"""Where an adapter starts.

Every layer draws from a generator seeded by (seed, lane, module name), so that a layer's start does not depend on which
other layers are adapted or in which order.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lorica.lora.layer import LoraEmbedding, LoraLayer, Strength
from lorica.lora.leading import randomised_svd
from lorica.lora.packing_error import Directions, Source
from lorica.lora.weights import dense_weight

Initialisation = bool | str


def initialise(
    layer: LoraLayer, kind: Initialisation, seeds: Sequence[int], name: str, source: Source | None = None
) -> None:
    """Fill `layer`'s pair in place, each lane from its own of `seeds` as it would be alone.

    `kind` is PEFT's `init_lora_weights`: True (Kaiming-uniform A, zero B), False (both random, for tests), "gaussian"
    (A of standard deviation 1/r), "pissa" or "pissa_niter_N" (Meng et al. 2024, https://arxiv.org/abs/2404.02948),
    "olora" (Büyükakyüz 2024, https://arxiv.org/abs/2406.01775), or "loftq" and "eva", which take what they begin with
    from `source`, as a layer does not hold it. Raises ValueError for any other.
    """
    if not layer.lora_A.is_meta:  # as a plan's layers are, which have shapes alone
        _fill(layer, kind, seeds, name, source)
    if str(kind).startswith(("pissa", "olora")):
        layer.start_A, layer.start_B = layer.lora_A.detach().clone(), layer.lora_B.detach().clone()


def _fill(layer: LoraLayer, kind: Initialisation, seeds: Sequence[int], name: str, source: Source | None) -> None:
    given = None if source is None else source(name)
    for lane, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(_derived_seed(seed, name))
        strength = layer.strengths[lane]
        down, up = _pair(layer, strength, kind, generator, given)
        with torch.no_grad():
            layer.lora_A[lane, : strength.r].copy_(down)
            layer.lora_B[lane, :, : strength.r].copy_(up)


def _derived_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")


def _pair(
    layer: LoraLayer, strength: Strength, kind: Initialisation, generator: torch.Generator, given: Directions | None
) -> tuple[Tensor, Tensor]:
    r, inputs, outputs = strength.r, layer.lora_A.shape[2], layer.lora_B.shape[1]
    if kind is True and isinstance(layer, LoraEmbedding):
        return torch.zeros(r, inputs), torch.randn(outputs, r, generator=generator)
    if kind is True:
        return _kaiming(r, inputs, generator), torch.zeros(outputs, r)
    if kind is False:
        return _kaiming(r, inputs, generator), _kaiming(outputs, r, generator)
    if kind == "gaussian":
        return torch.randn(r, inputs, generator=generator) / r, torch.zeros(outputs, r)
    if kind == "olora":
        return _olora(layer, strength)
    if kind.startswith("pissa"):
        return _pissa(layer, strength, kind, generator)
    if kind == "loftq":
        return _loftq(layer, strength, generator, given)
    if kind == "eva":
        down, up = _pair(layer, strength, True, generator, None)
        return (down if given is None else given[2][:r]), up
    raise ValueError(
        f'init_lora_weights is "{kind}"; expected true, false, gaussian, pissa, pissa_niter_N, olora, loftq or eva.'
    )


def _kaiming(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    # He et al. 2015 with a = sqrt(5), the start of torch's own linear layers and of PEFT's A: uniform in
    # +-1/sqrt(columns).
    return torch.empty(rows, columns).uniform_(-1, 1, generator=generator) / math.sqrt(columns)


def _olora(layer: LoraLayer, strength: Strength) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(dense_weight(layer.base).detach().float())
    _check_rank(layer, strength.r, q.shape[1])
    return r[: strength.r], q[:, : strength.r]


def _pissa(layer: LoraLayer, strength: Strength, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    weight = dense_weight(layer.base).detach().float()
    _check_rank(layer, strength.r, min(weight.shape))
    if kind == "pissa":
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    else:
        u, s, vt = randomised_svd(weight, strength.r, int(kind.removeprefix("pissa_niter_")), generator)
    root = (s[: strength.r] / strength.scale).sqrt()
    return root[:, None] * vt[: strength.r], u[:, : strength.r] * root


def _loftq(
    layer: LoraLayer, strength: Strength, generator: torch.Generator, given: Directions | None
) -> tuple[Tensor, Tensor]:
    """The leading part of what packing lost; the plain start where it lost nothing, as a pair of zeros never learns."""
    down, up = _pair(layer, strength, True, generator, None)
    if given is None:
        return down, up
    u, s, vt = (part.float().to(down.device) for part in given)
    _check_rank(layer, strength.r, len(s))
    root = (s[: strength.r] / strength.scale).sqrt()
    lost = s[: strength.r] > 1e-6 * s[0]
    return (
        torch.where(lost[:, None], root[:, None] * vt[: strength.r], down),
        torch.where(lost, u[:, : strength.r] * root, up),
    )


def _check_rank(layer: LoraLayer, r: int, most: int) -> None:
    if r > most:
        raise ValueError(
            f"rank {r} is more than the {most} directions that a weight of shape "
            f"{tuple(dense_weight(layer.base).shape)} has, from which it is to start. "
            "Use a smaller lora.r, or a rank_pattern for this layer."
        )
