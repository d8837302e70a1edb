"""Several adapters of one base as one.

`linear` is the exact weighted sum of what they add: ranks add up, nothing is lost. `svd` is that sum at a rank of your
choice. `ties` (Yadav et al. 2023, https://arxiv.org/abs/2306.01708) and `dare` (Yu et al. 2023,
https://arxiv.org/abs/2311.03099) are defined on the weights' changes, so they are computed on `B A`, a module at a
time, and brought back to a rank. Combining the A's and B's apart would add cross terms that none of the adapters has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorica.adapters.folder import AdapterFiles, read_adapter, write_adapter
from lorica.adapters.pairs import Pair, from_delta, total
from lorica.files import write_json

METHODS = ("linear", "svd", "ties", "dare")
MEASURED = "measured.json"


def merge_adapters(
    folders: Sequence[str | Path],
    out: str | Path,
    weights: Sequence[float] | None = None,
    *,
    method: str = "linear",
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
    allow_other_base: bool = False,
) -> dict[str, Any]:
    """Combine the adapters in `folders` into a new one in `out`, and measure what the new one holds of them.

    Args:
        weights: a factor for each adapter; where none are given 1 / n each, and 1 for `ties`, which takes a mean.
        rank: of the result, for `svd`, `ties` and `dare`; the largest of the adapters' where none is given.
        density: the share of a change's entries that `ties` and `dare` keep.
        seed: decides which entries `dare` keeps.

    Returns what was measured, which also stands in `out/measured.json`: for each module the `rank`, the `norm`, the
    share `kept` of the squared norm of what the method asked for, and the `similarity` (cosine) of the adapters.

    Raises ValueError for adapters of different bases or shapes, whole modules or token rows among them, or settings
    that do not fit the method; nothing is written then.
    """
    read = [read_adapter(folder) for folder in folders]
    factors = _factors(weights, len(read), method)
    _check(read, method, rank, density, allow_other_base)
    _check_starts(read, factors, method)
    recipe: dict[str, Any] = {"method": method, "weights": factors, "of": [str(folder) for folder in folders]}
    recipe |= {"density": density} if method in ("ties", "dare") else {}
    recipe |= {"seed": seed} if method == "dare" else {}
    pairs: dict[str, Pair] = {}
    measured: list[dict[str, Any]] = []
    for name in sorted({name for adapter in read for name in adapter.pairs}):
        held = [(f, adapter.pairs[name]) for f, adapter in zip(factors, read, strict=True) if name in adapter.pairs]
        wanted = rank or max(pair.rank for _, pair in held)
        pairs[name], kept = _combine(name, held, method, wanted, density, seed)
        measured.append(
            {"module": name, "rank": pairs[name].rank, "norm": pairs[name].norm(), "kept": kept}
            | {"similarity": _similarity([pair for _, pair in held])}
        )
    like = AdapterFiles(
        read[0].folder, read[0].config, read[0].provenance, {}, frozenset().union(*(a.embeddings for a in read)), {}
    )
    write_adapter(Path(out), like, pairs, recipe)
    result = {**recipe, "modules": measured, "kept": _overall(measured)}
    write_json(Path(out) / MEASURED, result)
    return result


def _factors(weights: Sequence[float] | None, count: int, method: str) -> list[float]:
    if count < 2:
        raise ValueError(f"merging takes two adapters or more; found {count}.")
    equal = 1.0 if method == "ties" else 1.0 / count  # ties takes a mean itself
    factors = [equal] * count if weights is None else [float(weight) for weight in weights]
    if len(factors) != count or not torch.isfinite(torch.tensor(factors)).all():
        raise ValueError(f"there are {count} adapters and the weights {factors}; expected one finite number for each.")
    return factors


def _check(read: list[AdapterFiles], method: str, rank: int | None, density: float, allow_other_base: bool) -> None:
    if method not in METHODS:
        raise ValueError(f'"{method}" is no way to merge adapters; expected {", ".join(METHODS)}.')
    if method == "linear" and rank is not None:
        raise ValueError("the linear sum has the ranks of all adapters together; for a rank of your choice use svd.")
    if rank is not None and rank < 1:
        raise ValueError(f"the rank is {rank}; expected at least 1.")
    if not 0 < density <= 1:
        raise ValueError(f"the density is {density}; expected a share above 0 and at most 1.")
    _check_bases(read, allow_other_base)
    shapes: dict[str, tuple[tuple[int, int], Path]] = {}
    for adapter in read:
        if adapter.others:
            raise ValueError(
                f"{adapter.folder} has tensors beside its low-rank pairs ({sorted(adapter.others)[0]}): trained "
                "modules and token rows are replaced, not added, so they have no sum. Merge it into its base instead."
            )
        for name, pair in adapter.pairs.items():
            shape, first = shapes.setdefault(name, (pair.shape, adapter.folder))
            if shape != pair.shape:
                raise ValueError(
                    f"{name} is {shape} in {first} and {pair.shape} in {adapter.folder}; adapters of different models "
                    "cannot be merged."
                )


def _check_bases(read: list[AdapterFiles], allow_other_base: bool) -> None:
    known = {str(adapter.provenance["base"]): adapter.folder for adapter in read if adapter.provenance.get("base")}
    if len(known) > 1 and not allow_other_base:
        told = " and ".join(f"{folder} (base {base[:12]})" for base, folder in known.items())
        raise ValueError(
            f"these adapters were trained on different bases: {told}. What they learned does not add up. Pass "
            "allow_other_base (on the command line --allow-other-base) if you know that they belong together."
        )


def _check_starts(read: list[AdapterFiles], factors: list[float], method: str) -> None:
    """What LoftQ's adapters hold of the packing's error has to be there once in the sum."""
    starts = {(adapter.provenance.get("start"), adapter.provenance.get("weights")) for adapter in read}
    if "loftq" not in {start for start, _ in starts}:
        return
    if len(starts) > 1 or method not in ("linear", "svd") or abs(sum(factors) - 1) > 1e-9:
        raise ValueError(
            "an adapter that began with what packing its base lost (loftq) holds that beside what it learned, and a "
            "sum has to hold it once: merge such adapters of one packing with each other only, with linear or svd, and "
            f"weights that add up to 1 (they are {factors})."
        )


def _combine(
    name: str, held: list[tuple[float, Pair]], method: str, rank: int, density: float, seed: int
) -> tuple[Pair, float]:
    """The combined pair, and the share of the squared norm of what the method asked for that it holds."""
    if method in ("linear", "svd"):
        whole = total([pair.times(factor) for factor, pair in held])
        found = whole if method == "linear" else whole.truncated(min(rank, *whole.shape))
        return found, _share(found.norm() ** 2, whole.norm() ** 2)
    changes = torch.stack([pair.delta() for _, pair in held])  # (adapters, out, in)
    weights = torch.tensor([factor for factor, _ in held], dtype=changes.dtype)[:, None, None]
    if method == "ties":
        delta = ties(changes, weights, density)
    else:
        delta = dare(changes * weights, density, _generator(seed, name))
    found = from_delta(delta, min(rank, *delta.shape))
    return found, _share(found.norm() ** 2, float(delta.square().sum()))


def ties(changes: Tensor, weights: Tensor, density: float) -> Tensor:
    """`changes` (adapters, out, in): keep the largest entries of each, elect a sign for every place by their sum, and
    take the mean of the entries that agree with it, times their `weights` (adapters, 1, 1)."""
    flat = changes.flatten(1)
    keep = max(1, int(density * flat.shape[1]))
    largest = flat.abs().topk(keep, dim=1).indices
    trimmed = torch.zeros_like(flat).scatter_(1, largest, flat.gather(1, largest)).view_as(changes)
    agree = trimmed.sign() == torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    return torch.where(agree, trimmed * weights, 0.0).sum(0) / agree.sum(0).clamp_min(1)


def dare(changes: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """`changes` (adapters, out, in): keep each entry with probability `density`, divide it by that, and add up."""
    kept = torch.rand(changes.shape, generator=generator, dtype=changes.dtype) < density
    return torch.where(kept, changes / density, 0.0).sum(0)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _similarity(pairs: list[Pair]) -> float | None:
    """The mean cosine between the adapters' changes of a module, None where only one changes it."""
    cosines = [
        one.dot(other) / max(one.norm() * other.norm(), 1e-300)
        for index, one in enumerate(pairs)
        for other in pairs[index + 1 :]
    ]
    return sum(cosines) / len(cosines) if cosines else None


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else 1.0


def _overall(measured: list[dict[str, Any]]) -> float:
    """The share kept of all modules together."""
    kept = sum(module["norm"] ** 2 for module in measured)
    wanted = sum(module["norm"] ** 2 / module["kept"] for module in measured if module["kept"] > 0)
    return _share(kept, wanted)
