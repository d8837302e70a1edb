"""The cheapest way in time to run a step within a budget of memory.

Levers in the order of what they cost: fewer tokens at a time, as long as products stay wide; then layers keep less and
compute more again, as many as it takes and no more; then their inputs go to the host; last the MLP comes in pieces.
None of them changes the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lorica.lean import Policy
from lorica.planning.keeping import named_policies
from lorica.planning.ledger import PACKED, WEIGHTS
from lorica.planning.machine import Machine
from lorica.planning.rehearsal import Rehearsal
from lorica.planning.whole import Rehearsed, WholeStep, whole_step
from lorica.planning.workload import Workload

BUSY = {"cpu": 256, "cuda": 8192}  # tokens beyond which a device is no faster (benchmarks/microbatch_tokens.py)
FEWEST = 64


@dataclass(frozen=True)
class Choice:
    """One way to run: tokens at a time, and every layer's policy. `seconds` is one optimiser step's."""

    tokens: int
    policies: tuple[Policy, ...]
    step: WholeStep
    tensor_bytes: int
    seconds: float
    tokens_per_second: float


@dataclass
class Solver:
    """`rehearsal` is of the model under the layers' own policies, or where those have none (the plain path) with and
    without recomputation: `recomputing` is the second, None where the model cannot. `fixed` are the layers' policies
    where the user has chosen."""

    rehearsal: Rehearsal
    recomputing: Rehearsal | None
    machine: Machine
    workload: Workload
    capacities: list[int]
    ladder: list[Policy]
    fixed: list[Policy] | None = None
    seen: dict[tuple[int, Policy], Rehearsed] = field(default_factory=dict)

    def best(self, budget: int) -> Choice | None:
        """The fastest that keeps tensors within `budget` bytes, None if nothing does."""
        fitting = [choice for choice in self.within(budget) if choice is not None]
        return max(fitting, key=lambda choice: choice.tokens_per_second, default=None)

    def free(self) -> None:
        """Choose tokens and policies anew, whatever was given."""
        self.fixed = None
        self.capacities = capacities_for(self.workload, self.machine.device, None)

    def within(self, budget: int) -> Iterator[Choice | None]:
        for capacity in self.capacities:
            choice = self._least_rungs(capacity, budget)
            yield choice
            if choice is not None and self.rung_of(choice) == 0:
                return  # fewer tokens would only be slower

    def smallest(self) -> Choice:
        """The least memory that any setting takes."""
        return min(
            (self.choice(c, self.last_rung) for c in self.capacities[-1:]), key=lambda choice: choice.tensor_bytes
        )

    @property
    def last_rung(self) -> int:
        return 0 if self.fixed is not None else (len(self.ladder) - 1) * max(1, self.layers)

    @property
    def layers(self) -> int:
        return len(self.rehearsal.stands_for)

    @property
    def frozen(self) -> int:
        """Bytes of the weights."""
        held = self.rehearsal.held
        return held[WEIGHTS] + held[PACKED]

    def rung_of(self, choice: Choice) -> int:
        return 0 if self.fixed is not None else sum(self.ladder.index(policy) for policy in choice.policies)

    def _least_rungs(self, capacity: int, budget: int) -> Choice | None:
        """The least recomputation that fits: bisection, as every rung takes less memory than the one before."""
        low, high = 0, self.last_rung
        found = self.choice(capacity, low)
        if found.tensor_bytes <= budget:
            return found
        found = self.choice(capacity, high)
        if found.tensor_bytes > budget:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            tried = self.choice(capacity, middle)
            if tried.tensor_bytes <= budget:
                high, found = middle, tried
            else:
                low = middle
        return found

    def choice(self, capacity: int, rung: int) -> Choice:
        """Every layer goes down one step of the ladder before any goes down two."""
        whole, more = divmod(rung, max(1, self.layers))
        policies = tuple(self.fixed or [self.ladder[whole + (i < more)] for i in range(self.layers)])
        tokens = self.workload.microbatch_tokens(capacity)
        held = self.rehearsal.held_with(self.workload.microbatch(capacity), 2 if self.rehearsal.trains_all else 1)
        step = whole_step(held, self.rehearsal.stands_for, policies, lambda policy: self.rehearsed(capacity, policy))
        batches = max(1.0, self.workload.step_tokens / tokens)
        seconds = batches * self.machine.seconds(step.microbatch) + self.machine.seconds(step.update)
        speed = batches * tokens / seconds
        return Choice(capacity, policies, step, step.peak.bytes, seconds, speed)

    def rehearsed(self, capacity: int, policy: Policy) -> Rehearsed:
        key = (capacity, policy)
        if key not in self.seen:
            examples = self.workload.microbatch(capacity)
            if self.rehearsal.trains_all:
                examples = [*examples, *examples]
            tokens = self.workload.microbatch_tokens(capacity)
            rehearsal = self.rehearsal
            if not rehearsal.is_lean and policy.keep == "input" and self.recomputing is not None:
                rehearsal = self.recomputing
            self.seen[key] = Rehearsed(rehearsal.stages(examples, tokens, policy))
        return self.seen[key]


def ladder_for(rehearsal: Rehearsal, can_recompute: bool, device: str, tokens: int) -> list[Policy]:
    """What a layer may come to, the cheapest first."""
    known = named_policies(device == "cpu")
    if not rehearsal.is_lean:
        return [known["all"], known["input"]] if can_recompute else [known["all"]]
    return [policy for policy in known.values() if policy.mlp_tokens is None or policy.mlp_tokens < tokens]


def capacities_for(workload: Workload, device: str, given: int | None) -> list[int]:
    """Tokens of a microbatch to try, the most first."""
    if given is not None:
        return [given]
    found: list[int] = []
    capacity = BUSY["cpu" if device == "cpu" else "cuda"]
    while capacity >= FEWEST:
        if not found or workload.microbatch_tokens(capacity) < workload.microbatch_tokens(found[-1]):
            found.append(capacity)
        capacity //= 2
    return found
