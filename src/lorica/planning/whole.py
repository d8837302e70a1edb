"""From rehearsed stages to the whole model's step: layers stand in line, each under its policy."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorica.lean import Policy
from lorica.planning.ledger import HOST, Bytes, Stage
from lorica.planning.work import Work


@dataclass(frozen=True)
class Moment:
    """A stage of the whole step: what is held as it begins, and at its peak, by term."""

    name: str
    held: Bytes
    peak: Bytes

    @property
    def bytes(self) -> int:
        return device_bytes(self.peak)


@dataclass(frozen=True)
class WholeStep:
    """One training step of the whole model, and the work of its last microbatch and of the optimiser."""

    moments: list[Moment]
    microbatch: Counter[Work]
    update: Counter[Work]

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.bytes)

    @property
    def host_bytes(self) -> int:
        return max(moment.peak[HOST] for moment in self.moments)


class Rehearsed:
    """The stages of a rehearsed step, by microbatch and by name."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.microbatches: list[dict[str, Stage]] = []
        for stage in stages:
            if stage.name == "embed":
                self.microbatches.append({})
            self.microbatches[-1][stage.name] = stage
        self.update = self.microbatches[-1].pop("update")


def whole_step(
    held: Bytes, stands_for: Sequence[int], policies: Sequence[Policy], rehearsed: Callable[[Policy], Rehearsed]
) -> WholeStep:
    """The step of a model that holds `held` before it. `stands_for[i]` is the rehearsed layer that layer i is like."""
    layers = [rehearsed(policy) for policy in policies]
    ends = layers[0] if layers else rehearsed(Policy())
    moments: list[Moment] = []
    level, work = Counter(held), Counter[Work]()

    def go(stage: Stage, name: str) -> None:
        moments.append(Moment(name, Counter(level), _sum(level, stage.peak)))
        level.update(stage.change)
        work.update(stage.work)

    for number, batch in enumerate(ends.microbatches):
        work.clear()
        go(batch["embed"], "embed")
        for i, (layer, place) in enumerate(zip(layers, stands_for, strict=True)):
            go(layer.microbatches[number][f"forward {place}"], f"forward {i}")
        if "loss" in batch:  # of a model whose layers are not known, one stage is everything
            go(batch["loss"], "loss")
        for i, (layer, place) in reversed(list(enumerate(zip(layers, stands_for, strict=True)))):
            backward = layer.microbatches[number].get(f"backward {place}")
            if backward is not None:
                go(backward, f"backward {i}")
    microbatch = Counter(work)
    go(ends.update, "update")
    return WholeStep(moments, microbatch, ends.update.work)


def device_bytes(terms: Bytes) -> int:
    return sum(size for term, size in terms.items() if term != HOST)


def _sum(left: Bytes, right: Bytes) -> Bytes:
    """By term; Counter's own addition drops what is not positive."""
    total = Counter(left)
    total.update(right)
    return total
