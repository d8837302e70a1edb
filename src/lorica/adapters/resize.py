"""An adapter at a smaller rank: the nearest one, module by module, and how near it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorica.adapters.folder import read_adapter, write_adapter
from lorica.adapters.merge import MEASURED
from lorica.adapters.pairs import Pair
from lorica.files import write_json


def resize_adapter(
    folder: str | Path,
    out: str | Path,
    *,
    rank: int | None = None,
    keep: float | None = None,
) -> dict[str, Any]:
    """Write the adapter in `folder` to `out` at `rank`, or at the least rank of each module that keeps the share `keep`
    of its change's squared norm.

    A rank above a module's own changes nothing. Whole modules and token rows are copied. Returns what was measured,
    which also stands in `out/measured.json`: for each module `rank` before and after, and the share `kept`.

    Raises ValueError unless exactly one of `rank` (at least 1) and `keep` (above 0, at most 1) is given, or for an
    adapter that cannot be read.
    """
    if (rank is None) == (keep is None):
        raise ValueError("resizing takes either a rank or the share of the change to keep.")
    if rank is not None and rank < 1:
        raise ValueError(f"the rank is {rank}; expected at least 1.")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"the share to keep is {keep}; expected a number above 0 and at most 1.")
    adapter = read_adapter(folder)
    pairs: dict[str, Pair] = {}
    measured: list[dict[str, Any]] = []
    for name, pair in adapter.pairs.items():
        shares = _shares(pair)
        wanted = rank if rank is not None else _least_rank(shares, float(keep or 0))
        pairs[name] = pair.truncated(wanted) if wanted < pair.rank else pair
        kept = shares[min(wanted, len(shares)) - 1]
        measured.append({"module": name, "rank_before": pair.rank, "rank": pairs[name].rank, "kept": kept})
    recipe = {"method": "resize", "of": [str(folder)]} | ({"rank": rank} if rank is not None else {"keep": keep})
    write_adapter(Path(out), adapter, pairs, recipe)
    squares = {name: pair.norm() ** 2 for name, pair in adapter.pairs.items()}
    total = sum(squares.values())
    overall = sum(squares[m["module"]] * m["kept"] for m in measured) / total if total > 0 else 1.0
    result = {**recipe, "modules": measured, "kept": overall}
    write_json(Path(out) / MEASURED, result)
    return result


def _shares(pair: Pair) -> list[float]:
    """The share of the squared norm that the first 1, 2, ... singular values hold."""
    squares = pair.singular_values().square()
    total = float(squares.sum())
    return [1.0] * len(squares) if total == 0 else (squares.cumsum(0) / total).clamp_max(1.0).tolist()


def _least_rank(shares: list[float], keep: float) -> int:
    # A share of 1 is reached up to rounding only.
    return next((rank for rank, share in enumerate(shares, start=1) if share >= keep * (1 - 1e-12)), len(shares))
