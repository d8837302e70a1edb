"""Several runs in one pass over one frozen base: each lane is the run it would be alone.

The frozen products are computed once for the rows of all lanes. Everything else a lane has for itself: its rows and
their order, its adapter, its loss, its clipping, its optimiser and schedule, its metrics and checkpoints, which are
those of `loop.py`, so that a lane can be continued alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lorica.config.schema import TrainConfig
from lorica.data.examples import Example
from lorica.data.lanes import LaneBatch, side_by_side
from lorica.lora.dropout import token_keys
from lorica.training.checkpoint import Progress, join_parts, split_parts
from lorica.training.feed import Feed, Step, step_maker
from lorica.training.lanes.buffers import lane_buffers
from lorica.training.optimiser import Optimiser, down_and_up
from lorica.training.schedule import learning_rate_factor, warmup_steps
from lorica.training.subject import Subject

Record = dict[str, float | int]
State = dict[str, Tensor]


@dataclass
class LaneRun:
    """What one lane trains on, how, and where it stands. `failed` says why a lane was stopped before its end."""

    name: str
    examples: Sequence[Example]
    config: TrainConfig
    lr: float
    steps: int
    progress: Progress = field(default_factory=Progress)
    records: list[Record] = field(default_factory=list)
    failed: str | None = None

    def learning_rate_factor(self, number: int) -> float:
        warmup = warmup_steps(self.steps, self.config.warmup)
        return learning_rate_factor(number, self.steps, self.config.schedule, warmup)


@dataclass(frozen=True)
class LaneStep:
    """Step `number` of every lane, and their microbatches joined."""

    number: int
    steps: list[Step]
    batches: list[LaneBatch]


class LaneLoop:
    """Trains the lanes of `subject`'s adapter, one for each of `runs`, which stand at the same step.

    `on_record` sees every lane's metrics, a lane's name with each. A lane whose loss or gradient is not finite is
    stopped: its weights stay as they were, and the others do not notice.
    """

    def __init__(
        self,
        subject: Subject,
        runs: Sequence[LaneRun],
        tokens_per_microbatch: int,
        on_record: Callable[[str, Record], None] | None = None,
    ) -> None:
        assert subject.adapter is not None and subject.adapter.lanes == len(runs)
        self.subject, self.runs = subject, list(runs)
        self.on_record = on_record or (lambda name, record: None)
        self.optimisers = _optimisers(subject.parameters, self.runs)
        self.makers = [
            step_maker(run.examples, run.config.batch_size, tokens_per_microbatch, run.config.seed) for run in runs
        ]
        self.feed = Feed(self._make)

    @property
    def step_number(self) -> int:
        return max(run.progress.step for run in self.runs)

    def train(self, until: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Up to step `until`, or until no lane is left or `stop` says so, which is asked after every step."""
        with self.feed:
            while self.step_number < until and any(run.failed is None for run in self.runs) and not stop():
                self.step()

    def step(self) -> None:
        started = time.perf_counter()
        step = self.feed.step(self.step_number)
        losses = self.accumulate(step)
        norms = [
            optimiser.clip(run.config.max_grad_norm) for optimiser, run in zip(self.optimisers, self.runs, strict=True)
        ]
        rates = [self._advance(lane, step.number, losses[lane], norm) for lane, norm in enumerate(norms)]
        seconds = time.perf_counter() - started
        for lane, run in enumerate(self.runs):
            if run.failed is None:
                self._record(run, step.steps[lane], losses[lane], norms[lane], rates[lane], seconds / len(self.runs))

    def accumulate(self, step: LaneStep) -> list[float]:
        """Gradients of every lane's loss; returns the losses (nats a token)."""
        engine, device = self.subject.engine, self.subject.device
        totals = torch.zeros(len(self.runs), device=device)
        weights = torch.tensor([own.weight for own in step.steps], dtype=torch.float32, device=device)
        for joined in step.batches:
            joined = joined.to(device)
            self._prepare(joined, step)
            losses = engine.lane_losses(joined.batch, joined.batch.weights / weights[joined.lanes], joined.lanes)
            self._add_gradients(losses.sum())
            totals += losses.detach()
        return totals.tolist()

    def _add_gradients(self, loss: Tensor) -> None:
        """Backward into the lanes' buffers by hand: autograd's own accumulation warns of their strides."""
        parameters = list(self.subject.parameters.values())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:
                assert parameter.grad is not None
                parameter.grad += gradient

    def _make(self, number: int) -> LaneStep:
        steps = [make(number) for make in self.makers]
        return LaneStep(number, steps, lane_batches(steps))

    def _prepare(self, joined: LaneBatch, step: LaneStep) -> None:
        """Tell the adapter's dropout what each lane's tokens are; filling has no tokens of its own."""
        adapter = self.subject.adapter
        assert adapter is not None
        if adapter.config.dropout == 0:
            return
        positions = joined.batch.position_ids  # (lanes, tokens)
        starts = (positions == 0).cumsum(1) - 1  # which document of the lane's row
        keys = []
        for lane, part in enumerate(joined.parts):
            rows = [step.steps[lane].rows[member] for member in (part.members if part is not None else [])] + [0]
            examples = torch.tensor(rows, device=positions.device)[starts[lane].clamp_max(len(rows) - 1)]
            keys.append(token_keys(self.runs[lane].config.seed, step.number, examples, positions[lane]))
        adapter.token_keys.keys = torch.stack(keys)

    def _advance(self, lane: int, number: int, loss: float, norm: float) -> float:
        """One step of a lane's optimiser; returns its learning rate. Clears the gradient in any case."""
        run, optimiser = self.runs[lane], self.optimisers[lane]
        if run.failed is None and not (math.isfinite(loss) and math.isfinite(norm)):
            run.failed = f"step {number + 1} gave a loss of {loss} and a gradient norm of {norm}"
        rate = 0.0
        if run.failed is None:
            rate = optimiser.set_learning_rate(run.learning_rate_factor(number))
            optimiser.step()
        optimiser.zero_grad()
        return rate

    def _record(self, run: LaneRun, step: Step, loss: float, norm: float, lr: float, seconds: float) -> None:
        progress = run.progress
        progress.step, progress.last_loss = step.number + 1, loss
        progress.seconds, progress.tokens = progress.seconds + seconds, progress.tokens + step.tokens
        epoch = progress.step * run.config.batch_size / len(run.examples)
        record: Record = {"step": progress.step, "epoch": epoch, "loss": loss, "lr": lr, "grad_norm": norm}
        record |= {"tokens": step.tokens, "seconds": progress.seconds, "tokens_per_second": step.tokens / seconds}
        run.records.append(record)
        self.on_record(run.name, record)

    def state(self, lane: int) -> State:
        """What a checkpoint of this lane alone holds: trained tensors and moments, at the lane's own rank."""
        adapter = self.subject.adapter
        assert adapter is not None
        trained = {name: tensor[lane : lane + 1] for name, tensor in adapter.state().items()}
        tensors = join_parts({"trained": trained, "optimiser": self.optimisers[lane].state()})
        return {key: _cut(key, tensor, self._rank(key, lane)).clone() for key, tensor in tensors.items()}

    def restore(self, lane: int, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave, of this lane or of a lone run."""
        adapter = self.subject.adapter
        assert adapter is not None
        parts = split_parts(state)
        for name, tensor in adapter.state().items():
            tensor[lane].copy_(_padded(parts["trained"][name], tensor[lane : lane + 1].shape)[0])
        buffers = self.optimisers[lane].all_buffers()
        shapes = {name: shape for buffer in buffers for name, shape in buffer.shapes.items()}
        moments = {
            key: _padded(tensor, shapes[key.partition("/")[2]]) if tensor.dim() else tensor
            for key, tensor in parts["optimiser"].items()
        }
        self.optimisers[lane].restore(moments)

    def _rank(self, key: str, lane: int) -> int:
        adapter = self.subject.adapter
        assert adapter is not None
        module = key.rpartition("/")[2].rpartition(".")[0]  # of "trained/MODULE.lora_A", "optimiser/exp_avg/MODULE..."
        return adapter.layers[module].strengths[lane].r


def lane_batches(steps: Sequence[Step]) -> list[LaneBatch]:
    """The microbatches of one step of each lane, joined; as many as the lane with the most
    has. The longest of all lanes go together."""
    ordered = [sorted(step.batches, key=lambda batch: -batch.input_ids.shape[1]) for step in steps]
    most = max(len(batches) for batches in ordered)
    return [side_by_side([batches[k] if k < len(batches) else None for batches in ordered]) for k in range(most)]


def _optimisers(parameters: Mapping[str, nn.Parameter], runs: Sequence[LaneRun]) -> list[Optimiser]:
    """One for each lane, over buffers of its own."""
    ratios = [run.config.loraplus_lr_ratio for run in runs]
    groups = [dict(parameters)] if set(ratios) == {1.0} else [group for group in down_and_up(parameters) if group]
    buffers = [lane_buffers(group, len(runs)) for group in groups]
    made = []
    for lane, run in enumerate(runs):
        rates = [run.lr, run.lr * run.config.loraplus_lr_ratio]
        own = [(rate, [held[lane]]) for rate, held in zip(rates, buffers, strict=False)]
        made.append(Optimiser(own, run.config, joined=True))
    return made


def _cut(name: str, tensor: Tensor, r: int) -> Tensor:
    """A lane's own rank of a tensor (1, ...) that is padded to the largest."""
    if not tensor.dim():  # AdamW's step counter
        return tensor
    if name.endswith("_A"):
        return tensor[:, :r]
    return tensor[:, :, :r] if name.endswith("_B") else tensor


def _padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    full = torch.zeros(shape, dtype=tensor.dtype)
    full[tuple(slice(size) for size in tensor.shape)] = tensor.cpu()
    return full
