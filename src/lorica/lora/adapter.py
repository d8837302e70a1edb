"""An adapter attached to a model: its trainable parts, and the switches to turn it off, merge it and take it away."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lorica.config.schema import LoraConfig
from lorica.lora.dropout import TokenKeys
from lorica.lora.layer import LoraLayer
from lorica.lora.trainable import TrainableCopy, TrainableRows

if TYPE_CHECKING:
    from lorica.lora.merge import MergeReport

Part = LoraLayer | TrainableCopy | TrainableRows


@dataclass
class Adapter:
    """What `attach` returns. The model itself was changed in place: each adapted module now sits inside its adapter
    part.

    `config` is what all lanes share, and lane 0's; `configs` has one for each lane. `layers`, `copies` and `rows` map
    module names to parts; `provenance` holds the content hashes of what it belongs to (keys `base`, `tokenizer`,
    `template`), saved with the adapter; `notes` are lines the user should see.
    """

    model: nn.Module
    config: LoraConfig
    configs: list[LoraConfig] = field(default_factory=list)
    layers: dict[str, LoraLayer] = field(default_factory=dict)
    copies: dict[str, TrainableCopy] = field(default_factory=dict)
    rows: dict[str, TrainableRows] = field(default_factory=dict)
    token_keys: TokenKeys = field(default_factory=TokenKeys)
    provenance: dict[str, str] = field(default_factory=dict)
    base_name: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.configs = self.configs or [self.config]

    @property
    def lanes(self) -> int:
        return len(self.configs)

    def parts(self) -> Iterator[tuple[str, Part]]:
        """(module name, part) of everything that replaced a module."""
        yield from self.layers.items()
        yield from self.copies.items()
        yield from self.rows.items()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, fp32, each once, by the name of its module and its own."""
        named: dict[str, nn.Parameter] = {}
        for name, layer in self.layers.items():
            named[f"{name}.lora_A"], named[f"{name}.lora_B"] = layer.lora_A, layer.lora_B
            if layer.magnitude is not None:
                named[f"{name}.magnitude"] = layer.magnitude
        for name, copied in self.copies.items():
            named |= {f"{name}.{key}": parameter for key, parameter in copied.trained.named_parameters()}
        for name, part in self.rows.items():
            if not any(part.rows is known for known in named.values()):
                named[f"{name}.rows"] = part.rows
        return named

    def parameters(self) -> list[nn.Parameter]:
        return list(self.named_parameters().values())

    def trainable_parameters(self) -> int:
        """Number of trained values in one lane."""
        return sum(parameter.numel() for parameter in self.parameters()) // self.lanes

    def without_gradient(self) -> list[str]:
        """After a backward pass: the adapted modules that took no part in it. They are not in the computation of this
        data (a vision tower, an expert no token chose), or the model reads their weights without calling them."""
        trained = {name: [p for p in part.parameters() if p.requires_grad] for name, part in self.parts()}
        return [name for name, parts in trained.items() if all(p.grad is None or not p.grad.any() for p in parts)]

    def state(self) -> dict[str, Tensor]:
        """Everything a training checkpoint needs: the parameters and the frozen start pairs, by name."""
        state: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self.named_parameters().items()}
        for name, layer in self.layers.items():
            if layer.start_A is not None and layer.start_B is not None:
                state[f"{name}.start_A"], state[f"{name}.start_B"] = layer.start_A, layer.start_B
        return state

    def check_lane(self, lane: int) -> None:
        """Raises ValueError if there is no such lane."""
        if not 0 <= lane < self.lanes:
            raise ValueError(f"lane {lane} does not exist; the adapter has lanes 0 to {self.lanes - 1}.")

    def train(self, mode: bool = True) -> "Adapter":
        """Dropout on or off in the adapter. The base stays in evaluation mode: its own dropout would make the frozen
        model random, and a result depend on how the step was cut."""
        self.model.eval()
        for layer in self.layers.values():
            layer.train(mode)
            layer.base.eval()
        return self

    def eval(self) -> "Adapter":
        return self.train(False)

    @contextmanager
    def disable(self) -> Iterator[None]:
        """Inside, the model is the base again: each adapted module runs its original and nothing else.

        Raises ValueError for a merged adapter, which the originals hold.
        """
        if any(part.merged for _, part in self.parts()):
            raise ValueError("this adapter is merged into the base and cannot be switched off; unmerge it first.")
        before = [(part, part.enabled) for _, part in self.parts()]
        for part, _ in before:
            part.enabled = False
        try:
            yield
        finally:
            for part, enabled in before:
                part.enabled = enabled

    def merge(self, lane: int = 0) -> "MergeReport":
        """Add the adapter into the base's weights; see `lorica.lora.merge.merge`."""
        from lorica.lora.merge import merge

        return merge(self, lane)

    def unmerge(self) -> None:
        """Put the base's own weights back, bit for bit."""
        from lorica.lora.merge import unmerge

        unmerge(self)

    def save(self, folder: str | Path, lane: int = 0) -> list[Path]:
        """Write the adapter in PEFT's format; see `lorica.lora.checkpoint.save_adapter`."""
        from lorica.lora.checkpoint import save_adapter

        return save_adapter(self, Path(folder), lane)

    def load(self, folder: str | Path, lane: int = 0, *, allow_other_base: bool = False) -> None:
        """Read weights into this adapter; see `lorica.lora.checkpoint.load_weights`."""
        from lorica.lora.checkpoint import load_weights

        load_weights(self, Path(folder), lane, allow_other_base=allow_other_base)

    def detach(self) -> nn.Module:
        """Take the adapter away: the model gets its own modules back, frozen as they were, and is returned. Of a merged
        adapter the model keeps the merged weights."""
        for name, part in self.parts():
            self.model.set_submodule(name, part.base)
        self.layers, self.copies, self.rows = {}, {}, {}
        return self.model


def check_finite(adapter: Adapter, where: str) -> None:
    """Raises ValueError naming the first trained tensor that holds NaN or infinity."""
    for name, parameter in adapter.named_parameters().items():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"{where}: {name} holds NaN or infinite values; this adapter cannot be used.")
