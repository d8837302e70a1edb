"""Every byte of a computation: when it is allocated, what for, and when it is freed.

The ledger sees each operator that torch dispatches and follows the storages of its results until they are freed. It
works the same over real tensors and over stand-ins without values, which is how a plan is checked. What a kernel
allocates and frees inside itself it does not see, but for those that `lorica.planning.work` knows.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lorica.planning.work import Work, work_of, workspace_bytes

Bytes = Counter[str]  # by term

WEIGHTS, PACKED, ADAPTERS = "base weights", "packed weights", "adapters"
GRADIENTS, OPTIMISER, KEPT = "gradients", "optimiser", "kept for backward"
WORKING, ATTENTION, LOSS, HOST = "working memory", "attention", "loss", "host memory"
TERMS = (WEIGHTS, PACKED, ADAPTERS, GRADIENTS, OPTIMISER, KEPT, WORKING, ATTENTION, LOSS)


@dataclass
class Stage:
    """A stretch of the step. `change` is what it leaves allocated over what it found; `peak` the most that it held over
    what it found, term by term; `work` what it computed."""

    name: str
    change: Bytes = field(default_factory=Counter)
    peak: Bytes = field(default_factory=Counter)
    work: Counter[Work] = field(default_factory=Counter)


@dataclass
class _Block:
    bytes: int
    term: str
    stage: int
    watch: Any


class Ledger(TorchDispatchMode):
    """Counts storages on `device`, each rounded up to `granularity` bytes. What lies on another device is counted as
    host memory, which no total includes."""

    def __init__(self, device: torch.device | str, granularity: int = 1) -> None:
        super().__init__()
        self.device, self.granularity = torch.device(device), granularity
        self.held: Bytes = Counter()
        self.total = self.peak = 0
        self.stages: list[Stage] = []
        self.blocks: dict[int, _Block] = {}
        self.entered: Bytes = Counter()
        self.enter("before")

    def enter(self, name: str) -> None:
        """Begin a stage. What the one before has allocated and not freed is kept for the backward pass, if that was a
        forward one."""
        self.leave()
        self.stages.append(Stage(name))
        self.entered = Counter(self.held)
        self.stage_peak = self.total

    def leave(self) -> None:
        if not self.stages:
            return
        stage = self.stages[-1]
        outlives = KEPT if stage.name.startswith(("embed", "forward")) else WORKING
        for block in self.blocks.values():
            if block.stage == len(self.stages) - 1 and block.term in (WORKING, ATTENTION, LOSS):
                self._move(block, outlives)
        stage.change = difference(self.held, self.entered)

    def claim(self, tensors: Iterable[Tensor], term: str) -> None:
        """Count the storages of `tensors` under `term`, those that exist already too."""
        for tensor in tensors:
            block = self.blocks.get(tensor.untyped_storage()._cdata) or self._add(tensor, term)
            if block.term != HOST:
                self._move(block, term)

    def stop(self) -> list[Stage]:
        """The stages so far, the last one ended."""
        self.leave()
        return self.stages

    def note(self, inside: int, work: Counter[Work]) -> None:
        """Count work that is not done, and the bytes that it would allocate and free again."""
        self._note_peak(inside, LOSS if self.stages[-1].name == "loss" else WORKING)
        self.stages[-1].work.update(work)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.blocks:
                self._add(tensor, self._term(function))
        inside = workspace_bytes(function, args, self.device)
        if inside:
            self._note_peak(inside, self._term(function))
        work = work_of(function, args, result)
        if work is not None:
            self.stages[-1].work[work] += 1
        return result

    def _term(self, function: Any) -> str:
        if "attention" in str(function):
            return ATTENTION
        return LOSS if self.stages[-1].name == "loss" else WORKING

    def _add(self, tensor: Tensor, term: str) -> _Block:
        storage = tensor.untyped_storage()
        key, here = storage._cdata, tensor.device.type == self.device.type
        size = -(-storage.nbytes() // self.granularity) * self.granularity if here else storage.nbytes()
        watch = weakref.ref(storage, lambda _: self._free(key))
        block = self.blocks[key] = _Block(size, term if here else HOST, len(self.stages) - 1, watch)
        self._count(block.term, size)
        self._note_peak()
        return block

    def _free(self, key: int) -> None:
        block = self.blocks.pop(key)
        self._count(block.term, -block.bytes)

    def _move(self, block: _Block, term: str) -> None:
        self._count(block.term, -block.bytes)
        block.term = term
        self._count(term, block.bytes)

    def _count(self, term: str, size: int) -> None:
        self.held[term] += size
        if term != HOST:
            self.total += size

    def _note_peak(self, inside: int = 0, term: str = WORKING) -> None:
        total = self.total + inside
        self.peak = max(self.peak, total)
        if total > self.stage_peak:
            self.stage_peak = total
            held = self.held + Counter({term: inside}) if inside else self.held
            self.stages[-1].peak = difference(held, self.entered)


def difference(after: Bytes, before: Bytes) -> Bytes:
    """By term, with the negative ones too."""
    return Counter({term: after[term] - before[term] for term in after | before if after[term] != before[term]})
