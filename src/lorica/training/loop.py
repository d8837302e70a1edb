"""The training loop, for one adapter or a whole model.

An optimiser step is a set of rows. How they are cut into microbatches cannot change its result: the loss is the
weighted sum over all supervised tokens of the step divided by the weight of all of them, documents do not see each
other, and dropout depends on tokens alone. A step is a function of (weights, moments, step number), which is why a run
resumes bit for bit.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.config.schema import TrainConfig
from lorica.data.batches import microbatches
from lorica.data.examples import Example
from lorica.data.order import step_rows
from lorica.training.checkpoint import Progress, load_newest, save_checkpoint
from lorica.training.guard import NonFiniteError, rows_not_finite
from lorica.training.interrupt import Interrupted, stop_on_signal
from lorica.training.loss import token_losses
from lorica.training.optimiser import build_optimiser, optimiser_state, restore_optimiser, set_learning_rate
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
    examples: list[Example]
    config: TrainConfig
    settings: LoopSettings
    run: RunFolder
    held_out_loss: Callable[[], float] | None
    on_record: Callable[[Record], None]
    notice: Callable[[str], None]

    def __post_init__(self) -> None:
        self.optimiser = build_optimiser(self.subject.parameters, self.config, self.settings.lr)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.saved_at = time.monotonic()
        self.saved_step = -1

    def train(self) -> Progress:
        """Run to the last step, from the newest checkpoint if there is one.

        Raises Interrupted after a signal (with a full checkpoint written), NonFiniteError, OSError if a file cannot be
        written.
        """
        with stop_on_signal() as request:
            self.resume()
            while self.progress.step < self.settings.steps and not self.stopped_early():
                self.step()
                self.evaluate_if_due()
                if request.number:
                    self.save()
                    raise Interrupted(self.run.path, self.progress.step, request.number)
                self.save_if_due()
            self.save()
        if self.best:
            self.subject.restore(self.best)
        return self.progress

    def step(self) -> None:
        started, number = time.perf_counter(), self.progress.step
        rows = step_rows(len(self.examples), self.config.batch_size, number, self.config.seed)
        chosen = [self.examples[row] for row in rows]
        loss, tokens = self.accumulate(chosen, rows, number)
        norm = self.clip()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            culprits = rows_not_finite(self.subject, chosen, rows, self.config.seed, number)
            raise NonFiniteError(number + 1, loss, norm, culprits, len(rows))
        if number == 0:
            self.notice_untrained()
        warmup = warmup_steps(self.settings.steps, self.config.warmup)
        factor = learning_rate_factor(number, self.settings.steps, self.config.schedule, warmup)
        lr = set_learning_rate(self.optimiser, factor)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        self.count(loss, tokens, seconds)
        epoch = self.progress.step * self.config.batch_size / len(self.examples)
        self.record(
            {"step": number + 1, "epoch": epoch, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens}
            | {"seconds": self.progress.seconds, "tokens_per_second": tokens / seconds}
        )

    def accumulate(self, chosen: list[Example], rows: list[int], number: int) -> tuple[float, int]:
        """Gradients of the step's loss, microbatch by microbatch; returns the loss (nats a token) and the tokens
        seen."""
        weight = sum(weight for example in chosen for weight in example.weights)
        total = torch.zeros((), device=self.subject.device)
        batches = microbatches(chosen, self.settings.tokens_per_microbatch)
        for batch in batches:
            batch = batch.to(self.subject.device)
            self.subject.prepare(batch, rows, self.config.seed, number)
            losses, _ = token_losses(self.subject.model, batch)
            loss = (losses * batch.weights).sum() / weight
            loss.backward()
            total += loss.detach()
        return float(total), sum(batch.input_ids.numel() for batch in batches)

    def clip(self) -> float:
        """Clip the gradient to `max_grad_norm`; returns its norm before."""
        limit = self.config.max_grad_norm if self.config.max_grad_norm is not None else math.inf
        return float(torch.nn.utils.clip_grad_norm_(self.subject.parameters.values(), limit))

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
        moments = optimiser_state(self.optimiser, self.subject.parameters)
        parts = {"trained": self.subject.state(), "optimiser": moments, "best": self.best}
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        save_checkpoint(self.run.checkpoints, self.progress, tensors, self.settings.keep_checkpoints)
        self.saved_at, self.saved_step = time.monotonic(), self.progress.step

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, or start over if there is none; later metrics are dropped."""
        found = load_newest(self.run.checkpoints, self.notice)
        if found is not None:
            self.progress, tensors = found
            self.saved_step = self.progress.step
            parts: dict[str, dict[str, Tensor]] = {"trained": {}, "optimiser": {}, "best": {}}
            for key, tensor in tensors.items():
                part, _, name = key.partition("/")
                parts[part][name] = tensor
            self.subject.restore(parts["trained"])
            restore_optimiser(self.optimiser, self.subject.parameters, parts["optimiser"])
            self.best = {name: tensor.to(self.subject.device) for name, tensor in parts["best"].items()}
        self.run.truncate_metrics(self.progress.step)
