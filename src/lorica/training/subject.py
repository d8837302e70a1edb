"""What is trained: an adapter on a frozen base, or the whole model. The loop knows no other difference between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lorica.data.batches import Batch
from lorica.lora import Adapter
from lorica.lora.dropout import token_keys
from lorica.lora.weights import count_weights, is_packed
from lorica.models.fingerprint import checksum
from lorica.training.engine import Engine, PlainEngine, choose_engine


@dataclass
class Subject:
    """`adapter` is None for full fine-tuning. The model is in evaluation mode throughout: the base's own dropout would
    make a result depend on how a step was cut; the adapter's dropout depends on tokens alone. `engine` computes the
    loss."""

    model: nn.Module
    adapter: Adapter | None
    parameters: dict[str, nn.Parameter]
    engine: Engine

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def prepare(self, batch: Batch, rows: list[int], seed: int, step: int) -> None:
        """Tell the adapter's dropout which tokens the batch holds. `rows`: the step's rows, which `members` index."""
        if self.adapter is None or self.adapter.config.dropout == 0:
            return
        starts = (batch.position_ids[0] == 0).cumsum(0) - 1  # (tokens,): which document of the row
        examples = torch.tensor([rows[member] for member in batch.members], device=starts.device)[starts]
        self.adapter.token_keys.keys = token_keys(seed, step, examples, batch.position_ids[0])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, no dropout and no recomputation (which would also drop the key-value cache of generation)."""
        self._set_training(False)
        try:
            yield
        finally:
            self._set_training(True)

    def _set_training(self, mode: bool) -> None:
        if self.adapter is not None:
            self.adapter.train(mode)
            self.adapter.token_keys.keys = None
        for module in self.model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = (
                    mode  # transformers recomputes such a layer in training mode; its parts stay out of it
                )

    def state(self) -> dict[str, Tensor]:
        """Trained tensors by name, and the frozen start pairs of an adapter that has them."""
        return self.adapter.state() if self.adapter is not None else {k: p.detach() for k, p in self.parameters.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def total_parameters(self) -> int:
        """Trained and frozen, packed ones too."""
        return count_weights(self.model)

    def frozen_checksum(self) -> int:
        """A checksum of every tensor that training must not touch."""
        trained = {id(parameter) for parameter in self.parameters.values()}
        named = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        return checksum(named[name] for name in sorted(named) if id(named[name]) not in trained)


def subject_of(
    model: nn.Module,
    adapter: Adapter | None,
    recompute: bool = False,
    engine: Literal["auto", "plain"] = "auto",
    verify: bool = True,
) -> Subject:
    """Without an adapter everything of the model is trained. With `recompute`, only each decoder layer's input is kept,
    and the layer computed again in the backward pass (Chen et al. 2016, https://arxiv.org/abs/1604.06174). `verify` is
    for a model without weights, as in `choose_engine`."""
    if adapter is None:
        check_dense(model)
        model.requires_grad_(True)
    parameters = adapter.named_parameters() if adapter is not None else dict(model.named_parameters())
    subject = Subject(model.eval(), adapter, parameters, PlainEngine(model))
    with subject.evaluating():
        if engine == "auto":
            subject.engine = choose_engine(model, adapter, recompute, verify)
        if recompute and subject.engine.body is None:
            recompute_layers(model)
    return subject  # in training mode


def check_dense(model: nn.Module) -> None:
    """Raises ValueError if part of `model` is packed, and so cannot be trained itself."""
    packed = next((name for name, module in model.named_modules() if is_packed(module)), None)
    if packed is not None:
        raise ValueError(
            f"{packed} is packed, so full fine-tuning cannot change it. Train an adapter (method: lora), or load the "
            "base with model.weights: as-is."
        )


def recompute_layers(model: nn.Module) -> None:
    """Have the model's own layers keep their input alone."""
    # Renamed in transformers 5.23, where the old name still works and warns.
    newer: Any = getattr(model, "activation_checkpointing_enable", None)
    enable: Any = newer or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
