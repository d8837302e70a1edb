"""What exports of an adapter alone have in common: pairs that other readers can hold, and how they are compared."""

from collections.abc import Collection, Iterator
from pathlib import Path

from lorica.exporting.changes import LowRank, read_changes
from lorica.exporting.weights import Weights
from lorica.exporting.written import WrittenWeight
from lorica.run.source import Source


def check_low_rank(source: Source, instead: str) -> None:
    """Raises ValueError for a full fine-tune; `instead` says what to do."""
    if source.whole:
        raise ValueError(f"the run in {source.path} trained the whole model, so there is no adapter. {instead}")


def low_rank_pairs(
    source: Source, weights: Weights, reader: str, but: Collection[str], instead: str
) -> dict[str, LowRank]:
    """The pairs of an adapter by parameter.

    Raises ValueError for a full fine-tune and for what no such pair is, and for pairs of the parameters in `but`
    (embedding and head), none of which `reader` takes; `instead` says what to do.
    """
    check_low_rank(source, instead)
    pairs: dict[str, LowRank] = {}
    for parameter, change in weights.changes.by_parameter.items():
        if not isinstance(change, LowRank):
            what = "weights that were trained whole (modules_to_save) or token by token"
        elif change.magnitude is not None:
            what = "DoRA's magnitudes"
        elif parameter in but:
            what = "changes to the embedding or the output head"
        else:
            pairs[parameter] = change
            continue
        raise ValueError(f"{reader} cannot hold {what} ({parameter}). {instead}")
    return pairs


def compared(written: Path, weights: Weights, source: Source) -> Iterator[WrittenWeight]:
    """Every changed weight as the adapter in `written` has it. Raises ValueError if that holds other changes."""
    found = read_changes(weights.skeleton, written, allow_other_base=source.allow_other_base).by_parameter
    if found.keys() != weights.changes.by_parameter.keys():
        raise ValueError(f"{written} does not hold what was written to it; the disk may be failing.")
    for parameter, stored, change in weights.changed():
        base = stored.read().float()
        yield WrittenWeight(parameter, "adapter", base, change.apply(base), base, found[parameter].apply(base))
