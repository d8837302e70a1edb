"""One training step run under a ledger: the same functions that train, over real tensors or over stand-ins."""

from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lorica.config.schema import TrainConfig
from lorica.models.decoder import decoder_layers, decoder_of
from lorica.planning.ledger import ADAPTERS, GRADIENTS, OPTIMISER, PACKED, WEIGHTS, WORKING, Ledger, Stage
from lorica.training.feed import Step
from lorica.training.loop import Loop, LoopSettings
from lorica.training.optimiser import Optimiser
from lorica.training.run_folder import RunFolder
from lorica.training.subject import Subject


class Watch:
    """Tells a ledger which stage of a step `subject` is in: `embed`, `forward 0` ..., `loss`, `backward n` ..., and
    what the caller announces."""

    def __init__(self, subject: Subject) -> None:
        self.ledger, self.backward = Ledger(subject.device), False
        layers: list[nn.Module] = list(decoder_layers(decoder_of(subject.model) or subject.model) or [])
        self.last = len(layers) - 1
        body = subject.engine.body
        model: Any = subject.model
        model.get_input_embeddings().register_forward_pre_hook(lambda *_: self.begin("embed"))
        if body is not None:
            body.before, body.after = self.forward, self.forward_done
        for number, layer in enumerate(layers if body is None else []):
            self.hook(number, layer)

    def hook(self, number: int, layer: nn.Module) -> None:
        layer.register_forward_pre_hook(lambda module, args: self.forward(number))
        layer.register_forward_hook(
            lambda module, args, output: self.forward_done(number, output[0] if isinstance(output, tuple) else output)
        )

    def begin(self, name: str) -> None:
        self.backward = False
        if self.ledger.stages[-1].name != name:
            self.ledger.enter(name)

    def forward(self, number: int) -> None:
        if not self.backward:  # a layer computed again in the backward pass belongs to that
            self.ledger.enter(f"forward {number}")

    def forward_done(self, number: int, y: Tensor) -> None:
        if self.backward:
            return
        if y.requires_grad:
            y.register_hook(lambda _: self.backward_begins(number))
        if number == self.last:
            self.ledger.enter("loss")

    def backward_begins(self, number: int) -> None:
        self.backward = True
        self.ledger.enter(f"backward {number}")


class StepRunner:
    """Runs training steps of `subject`, each under a ledger of its own."""

    def __init__(self, subject: Subject, config: TrainConfig) -> None:
        self.subject, self.config = subject, config
        self.watch = Watch(subject)
        self.loop: Loop | None = None

    def run(self, step: Step, ledger: Ledger) -> list[Stage]:
        """The stages of a step as it is from the second one on: with the optimiser's moments there."""
        if self.loop is None:
            self.loop = loop_of(self.subject, self.config)
            self.claim_gradients(self.loop.optimiser)
        loop, self.watch.ledger = self.loop, ledger
        self.claim_held(loop.optimiser, ledger)
        ledger.claim((x for batch in step.batches for x in vars(batch).values() if isinstance(x, Tensor)), WORKING)
        with ledger:
            if not loop.optimiser.joined:
                loop.accumulate(replace(step, batches=step.batches[:1]))
            self.update(loop.optimiser, ledger)
            start = len(ledger.stages)
            self.watch.begin("embed")
            loop.accumulate(step)
            self.watch.begin("update")
            loop.optimiser.clip(self.config.max_grad_norm)
            self.update(loop.optimiser, ledger)
            return ledger.stop()[start:]

    def update(self, optimiser: Optimiser, ledger: Ledger) -> None:
        """AdamW's step, and the end of the gradients. The fused kernel keeps two moments and needs nothing else; there
        is none for the meta device."""
        for buffer in optimiser.all_buffers():
            if not buffer.value.is_meta:
                optimiser.step()
                break
            held = optimiser.adamw.state[buffer.value]
            for name in ("exp_avg", "exp_avg_sq"):
                held[name] = held[name] if name in held else torch.zeros_like(buffer.value)
        state = optimiser.adamw.state.values()
        ledger.claim((x for held in state for x in held.values() if isinstance(x, Tensor)), OPTIMISER)
        optimiser.zero_grad()

    def claim_held(self, optimiser: Optimiser, ledger: Ledger) -> None:
        """What is there before the step, by what it is for."""
        trained = {id(parameter) for parameter in self.subject.parameters.values()}
        model = self.subject.model
        for tensor in (x for x in chain(model.parameters(), model.buffers()) if id(x) not in trained):
            ledger.claim([tensor], PACKED if tensor.dtype == torch.uint8 else WEIGHTS)
        for buffer in optimiser.all_buffers():
            ledger.claim([buffer.value], ADAPTERS if optimiser.joined else WEIGHTS)
            if buffer.value.grad is not None:
                ledger.claim([buffer.value.grad], GRADIENTS)
            state = optimiser.adamw.state.get(buffer.value, {})
            ledger.claim((x for x in state.values() if isinstance(x, Tensor)), OPTIMISER)

    def claim_gradients(self, optimiser: Optimiser) -> None:
        for buffer in optimiser.all_buffers() if not optimiser.joined else []:
            buffer.value.register_post_accumulate_grad_hook(lambda p: self.watch.ledger.claim([p.grad], GRADIENTS))


def loop_of(subject: Subject, config: TrainConfig) -> Loop:
    """The training loop, for its step alone: nothing is read or written."""
    settings = LoopSettings(1, 1e-3, 1, None, None, 1)
    return Loop(subject, [], config, settings, RunFolder("."), None, lambda record: None, lambda text: None)
