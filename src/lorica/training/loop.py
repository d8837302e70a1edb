"""The training loop, for one adapter or a whole model.

An optimiser step is a set of rows. How they are cut into microbatches cannot change its result: the loss is the
weighted sum over all supervised tokens of the step divided by the weight of all of them, documents do not see each
other, and dropout depends on tokens alone. A step is a function of (weights, moments, step number), which is why a run
resumes bit for bit.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.config.schema import TrainConfig
from lorica.data.examples import Example
from lorica.training.checkpoint import Progress, join_parts, load_newest, save_checkpoint, split_parts
from lorica.training.feed import Feed, Step, step_maker
from lorica.training.guard import NonFiniteError, rows_not_finite
from lorica.training.interrupt import Interrupted, stop_on_signal
from lorica.training.memory import StepOutOfMemoryError, is_out_of_memory, told
from lorica.training.optimiser import Optimiser
from lorica.training.run_folder import RunFolder
from lorica.training.schedule import learning_rate_factor, warmup_steps
from lorica.training.subject import Subject

Record = dict[str, float | int]


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs beside `TrainConfig`: resolved numbers, and how to compute."""

    steps: int
    lr: float
    tokens_per_microbatch: int
    evaluate_every: int | None
    checkpoint_every: int | None  # None: by time
    keep_checkpoints: int
    checkpoint_seconds: float = 60.0


@dataclass
class Loop:
    """A run in progress. `held_out_loss` measures the model as it stands; `on_record` sees every line of
    metrics.jsonl."""

    subject: Subject
    examples: Sequence[Example]
    config: TrainConfig
    settings: LoopSettings
    run: RunFolder
    held_out_loss: Callable[[], float] | None
    on_record: Callable[[Record], None]
    notice: Callable[[str], None]

    def __post_init__(self) -> None:
        joined = self.subject.adapter is not None
        self.optimiser = Optimiser.of(self.subject.parameters, self.config, self.settings.lr, joined)
        capacity = self.settings.tokens_per_microbatch
        self.feed = Feed(step_maker(self.examples, self.config.batch_size, capacity, self.config.seed))
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.saved_at = time.monotonic()
        self.saved_step = -1
        self.updating = False

    def train(self) -> Progress:
        """Run to the last step, from the newest checkpoint if there is one.

        Raises Interrupted after a signal (with a full checkpoint written), StepOutOfMemoryError (likewise),
        NonFiniteError, OSError if a file cannot be written.
        """
        with stop_on_signal() as request, self.feed:
            self.resume()
            while self.progress.step < self.settings.steps and not self.stopped_early():
                exhausted = self.try_step()
                if exhausted is not None:
                    self.optimiser.zero_grad()
                    self.save()
                    raise StepOutOfMemoryError(exhausted)
                self.evaluate_if_due()
                if request.number:
                    self.save()
                    raise Interrupted(self.run.path, self.progress.step, request.number)
                self.save_if_due()
            self.save()
        if self.best:
            self.subject.restore(self.best)
        return self.progress

    def try_step(self) -> str | None:
        """Do a step; returns what the allocator said if there was no memory for its gradients. Nothing holds on to what
        was computed until then."""
        try:
            self.step()
        except (MemoryError, RuntimeError) as error:
            if self.updating or not is_out_of_memory(error):
                raise
            return told(error)
        return None

    def step(self) -> None:
        started = time.perf_counter()
        step = self.feed.step(self.progress.step)
        loss = self.accumulate(step)
        norm = self.optimiser.clip(self.config.max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.run.append_metrics({"step": step.number + 1, "loss": loss, "grad_norm": norm})
            culprits = rows_not_finite(self.subject, step, self.config.seed)
            raise NonFiniteError(step.number + 1, loss, norm, culprits, len(step.rows))
        if step.number == 0:
            self.notice_untrained()
        lr = self.optimiser.set_learning_rate(self.learning_rate_factor(step.number))
        self.updating = True  # from here to its end a step cannot be taken back
        self.optimiser.step()
        self.optimiser.zero_grad()
        seconds = time.perf_counter() - started
        self.count(loss, step.tokens, seconds)
        self.updating = False
        epoch = self.progress.step * self.config.batch_size / len(self.examples)
        self.record(
            {"step": step.number + 1, "epoch": epoch, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": step.tokens}
            | {"seconds": self.progress.seconds, "tokens_per_second": step.tokens / seconds}
        )

    def accumulate(self, step: Step) -> float:
        """Gradients of the step's loss, microbatch by microbatch; returns the loss (nats a token)."""
        total = torch.zeros((), device=self.subject.device)
        for batch in step.batches:
            batch = batch.to(self.subject.device)
            self.subject.prepare(batch, step.rows, self.config.seed, step.number)
            loss = self.subject.engine.loss(batch, batch.weights / step.weight)
            loss.backward()
            total += loss.detach()
        return float(total)

    def learning_rate_factor(self, number: int) -> float:
        warmup = warmup_steps(self.settings.steps, self.config.warmup)
        return learning_rate_factor(number, self.settings.steps, self.config.schedule, warmup)

    def notice_untrained(self) -> None:
        """Say which parts of the adapter the data does not reach: a vision tower, experts that no token chose."""
        idle = self.subject.adapter.without_gradient() if self.subject.adapter is not None else []
        if idle:
            shown = ", ".join(idle[:3]) + (" ..." if len(idle) > 3 else "")
            self.notice(f"adapted modules that took no part in the first step: {len(idle)} ({shown})")

    def count(self, loss: float, tokens: int, seconds: float) -> None:
        self.progress.step += 1
        self.progress.seconds += seconds
        self.progress.tokens += tokens
        self.progress.last_loss = loss

    def record(self, record: Record) -> None:
        self.run.append_metrics(record)
        self.on_record(record)

    def evaluate_if_due(self) -> None:
        every, step = self.settings.evaluate_every, self.progress.step
        if every is None or self.held_out_loss is None or step % every:
            return
        loss = self.held_out_loss()
        self.record({"step": step, "held_out_loss": loss})
        best = self.progress.best_held_out_loss
        if math.isfinite(loss) and (best is None or loss < best):
            self.progress.best_held_out_loss, self.progress.evaluations_without_improvement = loss, 0
            if self.config.early_stopping is not None:
                self.best = {name: tensor.clone() for name, tensor in self.subject.state().items()}
        else:
            self.progress.evaluations_without_improvement += 1

    def stopped_early(self) -> bool:
        patience = self.config.early_stopping
        return patience is not None and self.progress.evaluations_without_improvement >= patience

    def save_if_due(self) -> None:
        every = self.settings.checkpoint_every
        by_time = time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds
        if by_time if every is None else self.progress.step % every == 0:
            self.save()

    def save(self) -> None:
        if self.saved_step == self.progress.step:
            return
        tensors = join_parts({"trained": self.subject.state(), "optimiser": self.optimiser.state(), "best": self.best})
        save_checkpoint(self.run.checkpoints, self.progress, tensors, self.settings.keep_checkpoints)
        self.saved_at, self.saved_step = time.monotonic(), self.progress.step

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, or start over if there is none; later metrics are dropped."""
        found = load_newest(self.run.checkpoints, self.notice)
        if found is not None:
            self.progress, tensors = found
            self.saved_step = self.progress.step
            parts = split_parts(tensors)
            self.subject.restore(parts["trained"])
            self.optimiser.restore(parts["optimiser"])
            self.best = {name: tensor.to(self.subject.device) for name, tensor in parts["best"].items()}
        self.run.truncate_metrics(self.progress.step)
