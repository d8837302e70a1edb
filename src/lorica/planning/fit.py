"""The cheapest way in time to run a step within a budget of memory.

Levers: fewer tokens at a time, layers that keep less and compute more again, their inputs on the host, the MLP in
pieces. None of them changes the result. Every way to divide the layers among three of the policies is weighed: layers
are nearly alike, so two policies are as good as any number up to one layer (a linear programme of two constraints).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from lorica.lean import Policy
from lorica.planning.keeping import named_policies
from lorica.planning.ledger import PACKED, WEIGHTS, Bytes
from lorica.planning.machine import Machine
from lorica.planning.rehearsal import Rehearsal
from lorica.planning.whole import Rehearsed, WholeStep, device_bytes, whole_step
from lorica.planning.workload import Workload

# Tokens beyond which lean layers are hardly faster (benchmarks/microbatch_tokens.py), and on a CPU a model's own layers
# slower, whose mask costs the square.
BUSY = {"cpu": 1024, "cuda": 8192}
BUSY_WITH_MASK = {"cpu": 256, "cuda": 8192}
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
        if device_bytes(self.rehearsal.held) > budget:
            return None
        best: Choice | None = None
        for capacity in self.capacities:
            found = self.fastest(capacity, budget)
            if found is None:
                continue
            faster = best is None or found.tokens_per_second > best.tokens_per_second
            best = found if faster else best
            keeps_all = set(found.policies) <= {self.ladder[0]}
            if keeps_all and not faster:
                break  # fewer tokens would only be slower still
        return best

    def free(self) -> None:
        """Choose tokens and policies anew, whatever was given."""
        self.fixed = None
        self.capacities = capacities_for(self.workload, self.machine.device, self.rehearsal.is_lean)

    def of(self, workload: Workload) -> Solver:
        """The same run on other rows."""
        capacities = capacities_for(workload, self.machine.device, self.rehearsal.is_lean)
        return replace(self, workload=workload, capacities=capacities, seen={})

    def smallest(self) -> Choice:
        """The least memory that any setting takes."""
        if self.fixed is not None or not self.layers:
            return self.last()
        mixes = mixes_of(len(self.ladder), self.layers, self.rehearsal.is_lean)
        taken, seconds = self.weigh(self.capacities[-1], mixes)
        return self.pick(self.capacities[-1], mixes[taken == taken.min()], seconds[taken == taken.min()])

    def last(self) -> Choice:
        """Close to the smallest, for one rehearsal: the fewest tokens, all layers at the end of the ladder."""
        return self.choice(self.capacities[-1], self.fixed or [self.ladder[-1]] * self.layers)

    @property
    def layers(self) -> int:
        return len(self.rehearsal.stands_for)

    @property
    def frozen(self) -> int:
        """Bytes of the weights."""
        held = self.rehearsal.held
        return held[WEIGHTS] + held[PACKED]

    def fastest(self, capacity: int, budget: int) -> Choice | None:
        """With so many tokens at a time."""
        if self.fixed is not None or not self.layers:
            found = self.choice(capacity, self.fixed or [])
            return found if found.tensor_bytes <= budget else None
        loosest = self.choice(capacity, [self.ladder[0]] * self.layers)
        if loosest.tensor_bytes <= budget:
            return loosest  # before the other policies are rehearsed
        mixes = mixes_of(len(self.ladder), self.layers, self.rehearsal.is_lean)
        taken, seconds = self.weigh(capacity, mixes)
        fits = taken <= budget
        return self.pick(capacity, mixes[fits], seconds[fits]) if fits.any() else None

    def pick(self, capacity: int, mixes: Tensor, seconds: Tensor) -> Choice:
        """The fastest of the mixes, and of equally fast ones the one that keeps the most."""
        mixes = mixes[seconds == seconds.min()]
        counts = mixes[(mixes * torch.arange(len(self.ladder))).sum(1).argmin()].tolist()
        policies = [policy for policy, count in zip(self.ladder, counts, strict=True) for _ in range(count)]
        return self.choice(capacity, policies[::-1])

    def weigh(self, capacity: int, mixes: Tensor) -> tuple[Tensor, Tensor]:
        """Peak bytes and seconds of a microbatch under each mix (mixes, policies): `whole_step` of all at once."""
        steps = [self.rehearsed(capacity, policy) for policy in self.ladder]
        ends = mixes.flip(1).cumsum(1)  # where the tightest policy's layers end, the next one's, ...
        level = torch.full((len(mixes),), device_bytes(self.held(capacity)))
        peak, spent = level.clone(), torch.zeros(len(mixes), 2, dtype=torch.float64)
        for number in range(len(steps[0].microbatches)):
            spent.zero_()
            for name, layer in stages_of(self.rehearsal.stands_for):
                stages = [step.microbatches[number].get(name) for step in steps]
                if any(stage is None for stage in stages):
                    continue  # no gradient is passed on beneath what is trained
                found = [stage for stage in stages if stage is not None]
                bytes_ = torch.tensor([[device_bytes(s.peak), device_bytes(s.change)] for s in found])
                times = torch.tensor([self.machine.spent(s.work) for s in found], dtype=torch.float64)
                which = len(steps) - 1 - (ends[:, :-1] <= layer).sum(1)
                peak = torch.maximum(peak, level + bytes_[which, 0])
                level, spent = level + bytes_[which, 1], spent + times[which]
        update = torch.tensor([device_bytes(step.update.peak) for step in steps])
        peak = torch.maximum(peak, level + update[len(steps) - 1 - (ends[:, :-1] <= 0).sum(1)])
        busy, starting = spent.unbind(1)
        return peak, busy + starting if self.machine.device == "cpu" else torch.maximum(busy, starting)

    def held(self, capacity: int) -> Bytes:
        return self.rehearsal.held_with(self.workload.microbatch(capacity), 2 if self.rehearsal.trains_all else 1)

    def choice(self, capacity: int, policies: Sequence[Policy]) -> Choice:
        """With every layer's policy."""
        tokens = self.workload.microbatch_tokens(capacity)
        step = whole_step(
            self.held(capacity), self.rehearsal.stands_for, policies, lambda policy: self.rehearsed(capacity, policy)
        )
        batches = max(1.0, self.workload.step_tokens / tokens)
        seconds = batches * self.machine.seconds(step.microbatch) + self.machine.seconds(step.update)
        return Choice(capacity, tuple(policies), step, step.peak.bytes, seconds, batches * tokens / seconds)

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


@cache
def mixes_of(policies: int, layers: int, mixed: bool) -> Tensor:
    """Layers under each policy (mixes, policies): all ways with at most three of them, or with one if not `mixed`."""
    if not mixed:
        return layers * torch.eye(policies, dtype=torch.int64)
    first, second = torch.triu_indices(layers + 1, layers + 1)
    parts = torch.stack([first, second - first, layers - second], 1)
    found = []
    for some in combinations(range(policies), min(3, policies)):
        counts = torch.zeros(len(parts), policies, dtype=torch.int64)
        counts[:, list(some)] = parts[:, : len(some)]
        found.append(counts[counts.sum(1) == layers])
    return torch.cat(found).unique(dim=0)


def stages_of(stands_for: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The stages of a microbatch as they were rehearsed, each with the layer whose policy it is under."""
    yield "embed", 0
    yield from ((f"forward {place}", layer) for layer, place in enumerate(stands_for))
    yield "loss", 0
    yield from ((f"backward {place}", layer) for layer, place in reversed(list(enumerate(stands_for))))


def ladder_for(rehearsal: Rehearsal, can_recompute: bool, device: str, tokens: int) -> list[Policy]:
    """What a layer may come to, the cheapest first."""
    known = named_policies(device == "cpu")
    if not rehearsal.is_lean:
        return [known["all"], known["input"]] if can_recompute else [known["all"]]
    return [policy for policy in known.values() if policy.mlp_tokens is None or policy.mlp_tokens < tokens]


def capacities_for(workload: Workload, device: str, is_lean: bool) -> list[int]:
    """Tokens of a microbatch to try, the most first."""
    found: list[int] = []
    capacity = (BUSY if is_lean else BUSY_WITH_MASK)["cpu" if device == "cpu" else "cuda"]
    while capacity >= FEWEST:
        if not found or workload.microbatch_tokens(capacity) < workload.microbatch_tokens(found[-1]):
            found.append(capacity)
        capacity //= 2
    return found
