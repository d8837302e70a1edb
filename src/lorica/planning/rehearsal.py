"""A model without weights, ready to have its training step run under a ledger.

Layers that are alike cost alike. The first layer, the last, and one of each kind between them are rehearsed, and the
others counted: what a stage allocates over what it found does not depend on how many layers came before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lorica.config.schema import RunConfig
from lorica.data.examples import Example
from lorica.lean import Policy
from lorica.lean.body import counted
from lorica.lora import Adapter, attach
from lorica.lora.weights import count_weights
from lorica.models.decoder import decoder_layers, decoder_of
from lorica.models.locate import one_line
from lorica.planning.ledger import ADAPTERS, GRADIENTS, OPTIMISER, PACKED, WEIGHTS, WORKING, Bytes, Ledger, Stage
from lorica.planning.model import PlannedModel, layer_kinds
from lorica.planning.packed import count_unpacking, make_tables
from lorica.planning.step import StepRunner
from lorica.planning.valueless import StandIns, Valueless
from lorica.training.buffers import ALIGNMENT
from lorica.training.feed import make_step
from lorica.training.subject import Subject, subject_of

GPU_BLOCK = 512  # bytes that torch's CUDA allocator rounds up to (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)


class CannotRehearseError(ValueError):
    """A model whose step needs values: no plan can be made of it."""


@dataclass
class Rehearsal:
    """`held` is what the whole model holds before a step; `stands_for[i]` the rehearsed layer that layer i is like."""

    subject: Subject
    device: torch.device
    held: Bytes
    stands_for: list[int]
    runner: StepRunner
    stand_ins: StandIns
    trained: int
    parameters: int
    runs: dict[Any, list[Stage]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: PlannedModel, config: RunConfig, dtype: torch.dtype, device: torch.device) -> "Rehearsal":
        """For `device`, which need not be there. `config` says what is trained and how."""
        module = model.empty(dtype, config.model.weights)
        adapter = attach(module, config.lora, seed=0) if config.method == "lora" else None
        if adapter is None:
            module.requires_grad_(True)
        held = held_bytes(module, adapter, 1 if device.type == "cpu" else GPU_BLOCK)
        parameters = count_parameters(module, adapter)
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        stands_for = keep_one_of_each_kind(module, adapter)
        with Valueless():
            recompute = config.system.checkpointing == "full"
            subject = subject_of(module, adapter, recompute, config.system.engine, verify=False)
        place = device if device.type == "cpu" else torch.device("meta")
        make_tables(module)
        stand_ins = StandIns(module, place)
        runner = StepRunner(subject, config.train)
        count_unpacking(module, runner.watch)
        return cls(subject, place, held, stands_for, runner, stand_ins, trained, parameters)

    @property
    def is_lean(self) -> bool:
        return self.subject.engine.body is not None

    @property
    def engine(self) -> str:
        """What computes the whole model."""
        engine = self.subject.engine
        if engine.body is None:
            return engine.description.partition(" (")[0]  # the reason counts rehearsed layers, not the model's
        return counted([engine.body.layers[place] for place in self.stands_for])

    @property
    def trains_all(self) -> bool:
        return self.subject.adapter is None

    def held_with(self, examples: Sequence[Example], batches: int) -> Bytes:
        """Before a step over `examples`, `batches` times. On a CPU their tokens are there already; a GPU is sent them
        in the step."""
        held = Bytes(self.held)
        if self.device.type == "cpu":
            held[WORKING] += batches * sum(batch_bytes(example) for example in examples)
        return held

    def stages(self, examples: Sequence[Example], capacity: int, policy: Policy | None = None) -> list[Stage]:
        """The stages of a step over `examples` with every lean layer under `policy`."""
        step = make_step(examples, list(range(len(examples))), capacity, 0)
        body = self.subject.engine.body
        if policy is not None and body is not None:
            body.set_policies([policy] * len(body.layers))
        ledger = Ledger(self.device, 1 if self.device.type == "cpu" else GPU_BLOCK)
        try:
            with self.stand_ins.entered():
                return self.runner.run(step, ledger)
        except (RuntimeError, NotImplementedError) as error:  # what torch raises where a value or a rule is missing
            raise CannotRehearseError(f"its step cannot be rehearsed without values ({one_line(error)})") from error


def batch_bytes(example: Example) -> int:
    """Of an example's share of a batch: ids and positions, and four numbers for what is supervised."""
    return 16 * len(example.input_ids) + 28 * example.supervised


def count_parameters(model: nn.Module, adapter: Adapter | None) -> int:
    """Of the base, packed ones too."""
    return count_weights(model) - (0 if adapter is None else sum(p.numel() for p in adapter.parameters()))


def held_bytes(model: nn.Module, adapter: Adapter | None, block: int) -> Bytes:
    """What is there before a step, by term, for the whole model: frozen weights, trained ones, and what the optimiser
    keeps for those."""
    held = Bytes()
    storages = {x.untyped_storage()._cdata: x for x in [*model.parameters(), *model.buffers()] if not x.requires_grad}
    for tensor in storages.values():
        size = -(-tensor.untyped_storage().nbytes() // block) * block
        held[PACKED if tensor.dtype == torch.uint8 else WEIGHTS] += size
    for parameter in {id(p): p for p in model.parameters() if p.requires_grad}.values():
        if adapter is None:
            held[WEIGHTS] += -(-parameter.nbytes // block) * block
            held[OPTIMISER] += 2 * (-(-parameter.nbytes // block) * block) + (4 if block == 1 else 0)
        else:  # side by side in one buffer
            size = -(-parameter.numel() // ALIGNMENT) * ALIGNMENT * parameter.element_size()
            held += Bytes({ADAPTERS: size, GRADIENTS: size, OPTIMISER: 2 * size})
    return held


def keep_one_of_each_kind(model: Any, adapter: Adapter | None) -> list[int]:
    """Take out of the model the layers that others stand for; returns for each layer the place of its stand-in."""
    layers = decoder_layers(decoder_of(model) or model)
    text = model.config.get_text_config()
    if layers is None or len(layers) != getattr(text, "num_hidden_layers", None):
        return list(range(len(layers or [])))
    types = getattr(text, "layer_types", None)
    trained_below = any(p.requires_grad for p in model.get_input_embeddings().parameters())
    kinds = layer_kinds(layers, types, trained_below)
    final = len(kinds) - 1
    stand_in = {kind: number for number, kind in enumerate(kinds[:-1])}
    kept = sorted({0, final, *stand_in.values()})
    dropped = set(range(len(layers))) - set(kept)
    if adapter is not None:
        _forget(adapter, model, layers, dropped)
    for number in sorted(dropped, reverse=True):
        del layers[number]
    if types and not _computed(text, "layer_types"):
        text.layer_types = [types[number] for number in kept]
    text.num_hidden_layers = len(kept)
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment] # of transformers' key-value caches
    places = [number if number in (0, final) else stand_in[kind] for number, kind in enumerate(kinds)]
    return [kept.index(place) for place in places]


def _computed(config: Any, name: str) -> bool:
    """Whether a config gives `name` by a property of its own, under that name or the one that it maps it to."""
    own = type(config)
    return isinstance(getattr(own, own.attribute_map.get(name, name), None), property)


def _forget(adapter: Adapter, model: nn.Module, layers: nn.ModuleList, dropped: set[int]) -> None:
    gone = {id(part) for number in dropped for part in layers[number].modules()}
    for parts in (adapter.layers, adapter.copies, adapter.rows):
        for name in [name for name, part in parts.items() if id(part) in gone]:
            del parts[name]
