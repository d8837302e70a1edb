"""What a plan knows of a machine: its memory, and how fast it multiplies, moves and starts work."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

from lorica.planning.work import Work


@dataclass(frozen=True)
class Machine:
    """`rates` are matrix products a second (flop/s) by type ("fp32", "bf16"), each a list of (smallest side, rate).
    `bandwidth` is bytes read and written a second; `launch` the seconds that one operator takes to be started;
    `overhead` the bytes of memory that libraries and context take beside tensors. `source` says where this is from."""

    name: str
    device: str
    memory: int
    rates: dict[str, list[tuple[int, float]]]
    bandwidth: float
    launch: float
    overhead: int
    watts: float | None
    source: str

    def rate(self, dtype: str, narrow: int) -> float:
        """Between the measured sides along a straight line; beyond them as at the end."""
        points = self.rates[dtype]
        place = bisect_left([side for side, _ in points], narrow)
        if place == 0 or place == len(points):
            return points[min(place, len(points) - 1)][1]
        (low, slow), (high, fast) = points[place - 1], points[place]
        return slow + (fast - slow) * (narrow - low) / (high - low)

    def seconds(self, work: Counter[Work]) -> float:
        """A GPU works while the next operators are started; a CPU starts them itself."""
        busy, starting = self.spent(work)
        return busy + starting if self.device == "cpu" else max(busy, starting)

    def spent(self, work: Counter[Work]) -> tuple[float, float]:
        """Seconds of computing and of starting operators, each of which takes as long as its arithmetic or its memory,
        whichever is slower."""
        busy = 0.0
        for operator, times in work.items():
            computing = operator.flops / self.rate(name_of(operator), operator.narrow) if operator.flops else 0.0
            busy += times * max(computing, operator.bytes / self.bandwidth)
        return busy, work.total() * self.launch


def name_of(work: Work) -> str:
    return "bf16" if work.dtype.itemsize == 2 else "fp32"
