"""A saved adapter beside the weights that it changes, one at a time and without the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorica.adapters.intruders import THRESHOLD, highest_cosines, highest_cosines_of
from lorica.exporting.changes import LowRank
from lorica.exporting.weights import read_weights_of
from lorica.run.source import open_source

Progress = Callable[[str], None]


def beside_base(
    folder: Path, base: Path | None = None, *, allow_other_base: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """What the adapter in `folder`, or the run's, does to its base, which lies at `base` or where it was in training.

    By module: `relative_norm`, the change's norm over the weight's; `cosines`, for each of the ten leading left
    singular vectors of the merged weight the highest to any of the base's; and how many are `intruders`, below the
    threshold.

    Raises ValueError for a base that cannot be found, is another one, or does not fit.
    """
    source = open_source(folder, base, allow_other_base=allow_other_base)
    weights = read_weights_of(source)
    modules: dict[str, dict[str, Any]] = {}
    for parameter, stored, change in weights.changed():
        if not isinstance(change, LowRank):
            continue
        if progress is not None:
            progress(parameter)
        before = stored.read().float()
        before = before if change.packed is None else change.packed.rounded(before)
        after = change.apply(stored.read().float())
        before, after = (weight.t() if change.transposed else weight for weight in (before, after))
        if change.magnitude is None:
            cosines = highest_cosines(before, change.down, change.up * change.scale)
        else:
            cosines = highest_cosines_of(before, after)
        modules[parameter.removesuffix(".weight")] = {
            "relative_norm": float((after - before).norm() / before.norm().clamp_min(1e-30)),
            "cosines": cosines.tolist(),
            "intruders": int((cosines < THRESHOLD).sum()),
        }
    return {"base": str(source.base), "threshold": THRESHOLD, "modules": modules}
