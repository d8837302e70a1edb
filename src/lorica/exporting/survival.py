"""How much of a fine-tune the written weights hold.

The true delta is tuned - base; the written one is what the export serves less what the base serves in the same type.
`survival` is the projection of the second on the first, <written, true> / ||true||^2: 1 where nothing is lost, 0 where
rounding put every weight back to the base's. `noise` is the rest of the written delta relative to the true one: above
1, rounding moved the weights further than the fine-tune did.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.exporting.written import WrittenWeight
from lorica.quant import codec, fallback

CANDIDATES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K")
HOLDS, DROWNS = 0.5, 1.0
SAMPLED_ROWS = 256


@dataclass(frozen=True)
class Survival:
    """Of one weight. `relative_delta` is ||true|| / ||base||, `energy` ||true||^2."""

    name: str
    type: str
    relative_delta: float
    survival: float
    noise: float
    energy: float


def survival_of(weight: WrittenWeight) -> Survival:
    """Raises ValueError if the written weight is not finite."""
    true, written = weight.tuned - weight.base, weight.exported - weight.served_base
    if not torch.isfinite(written).all():
        raise ValueError(
            f"{weight.name} was written as {weight.type} with NaN or infinite values; do not use this export."
        )
    share, noise, energy = _projection(true, written)
    size = float(true.norm() / weight.base.norm().clamp_min(1e-30))
    return Survival(weight.name, weight.type, size, share, noise, energy)


def _projection(true: Tensor, written: Tensor) -> tuple[float, float, float]:
    energy = float(true.double().square().sum())
    if energy == 0.0:
        return 1.0, 0.0, 0.0
    share = float((written.double() * true.double()).sum()) / energy
    noise = float((written.double() - share * true.double()).norm()) / energy**0.5
    return share, noise, energy


def overall(weights: Iterable[Survival]) -> tuple[float, float]:
    """(survival, noise) of all weights together, each counted by the size of its delta."""
    weights = list(weights)
    energy = sum(weight.energy for weight in weights)
    if energy == 0.0:
        return 1.0, 0.0
    share = sum(weight.survival * weight.energy for weight in weights) / energy
    noise = (sum((weight.noise**2) * weight.energy for weight in weights) / energy) ** 0.5
    return share, noise


def surviving_types(weights: Iterable[WrittenWeight]) -> list[str]:
    """The types among `CANDIDATES` that would hold the fine-tune, by some rows of each weight: most of the delta is
    there, and rounding stays below it."""
    found: dict[str, list[Survival]] = {name: [] for name in CANDIDATES}
    for weight in weights:
        if weight.base.ndim != 2:
            continue
        base, tuned = (matrix[:SAMPLED_ROWS].contiguous() for matrix in (weight.base, weight.tuned))
        for name in CANDIDATES:
            type_name = fallback(name, base.shape[1])
            if type_name == "F16" and name != "F16":
                continue  # rows that do not divide into blocks of 32
            served, exported = (codec(type_name).rounded(matrix) for matrix in (base, tuned))
            found[name].append(survival_of(WrittenWeight(weight.name, type_name, base, tuned, served, exported)))
    kept = {name: overall(entries) for name, entries in found.items() if entries}
    return [name for name, (share, noise) in kept.items() if share >= HOLDS and noise <= DROWNS]
