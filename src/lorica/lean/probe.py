"""One pass of a model's own body over two short documents, watched: where data goes, and with what each layer is
called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lorica.kernels.documents import Documents
from lorica.lean.own import Arguments, OwnModule
from lorica.lean.pack import Inputs, Pack
from lorica.lean.structure import NotLeanError
from lorica.lean.trace import Call, first, recorded, same
from lorica.lora.weights import vocabulary_of
from lorica.models.decoder import decoder_layers, decoder_of

LENGTHS = (13, 6)


class Probe:
    """Raises NotLeanError where data takes another way than embeddings, layer after layer, and a last module. Without
    `verify` no value is looked at: a model without weights is taken for what its structure says."""

    @torch.no_grad()
    def __init__(self, model: Any, lanes: int = 1, verify: bool = True) -> None:
        self.verify = verify
        decoder: Any = decoder_of(model)
        layers = decoder_layers(decoder) if decoder is not None else None
        if layers is None:
            raise NotLeanError("the model is not one list of layers")
        self.decoder, self.layers = decoder, list(layers)
        self.embedding: nn.Module = model.get_input_embeddings()
        device = next(decoder.parameters()).device
        generator = torch.Generator().manual_seed(0)
        vocabulary = vocabulary_of(self.embedding)
        self.input_ids = torch.randint(vocabulary, (lanes, sum(LENGTHS)), generator=generator).to(device)
        positions = torch.cat([torch.arange(length) for length in LENGTHS])
        self.position_ids = positions.expand(lanes, -1).contiguous().to(device)
        self.documents = Documents.of(list(LENGTHS) * lanes, device)
        with recorded([*self._surroundings(layers), *(("layer", layer) for layer in self.layers)]) as calls:
            found = decoder(input_ids=self.input_ids, position_ids=self.position_ids, use_cache=False)
        self.output: Tensor = found.last_hidden_state
        self.calls = [call for call in calls if call.name == "layer"]
        self._check_chain()
        self.tables = [call for call in calls if _gives_table(call)]
        self.multiplier = self._find_multiplier(calls)
        self.final = self._find_final(calls)

    def _surroundings(self, layers: nn.ModuleList) -> Iterator[tuple[str, nn.Module]]:
        """What the decoder has beside its layers; some keep a list of rotary embeddings."""
        for name, child in self.decoder.named_children():
            if isinstance(child, nn.ModuleList):
                yield from ((name, part) for part in child if child is not layers)
            else:
                yield name, child

    def _check_chain(self) -> None:
        if [call.module for call in self.calls] != self.layers:
            raise NotLeanError("the model does not call its layers once, in their order")
        for before, after in zip(self.calls, self.calls[1:], strict=False):
            if not same(first(before.output), after.input):
                raise NotLeanError("the model does something between its layers")

    def _find_multiplier(self, calls: list[Call]) -> float:
        """What the embedding is multiplied by: nothing, or a number that the model keeps (Granite)."""
        x = self.calls[0].input
        rows = next((call.output for call in calls if call.module is self.embedding), None)
        if isinstance(rows, Tensor):
            numbers = [value for value in vars(self.decoder).values() if isinstance(value, float)]
            if self.verify:
                numbers = [number for number in (1.0, *numbers) if torch.equal(rows * number, x)]
            elif same(rows, x):
                numbers = [1.0]
            if numbers:
                return numbers[0]
        raise NotLeanError("the first layer's input is not the embedding of the tokens")

    def _find_final(self, calls: list[Call]) -> nn.Module:
        last = first(self.calls[-1].output)
        for call in calls:
            if isinstance(call.output, Tensor) and same(call.output, self.output) and same(call.input, last):
                return call.module
        raise NotLeanError("the final hidden states are not the norm of the last layer's output")

    @cached_property
    def pack(self) -> Pack:
        tables = [call.output for call in self.tables]
        masks = self.masks(self.calls[0].input, self.position_ids)
        return Pack.of(Inputs(self.position_ids, tables, masks), self.documents)

    def rotary(self, number: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Rotary embedding `number`: cosines and sines (lanes, tokens, width) from hidden states and position ids."""
        module = self.tables[number].module
        arguments = self.arguments(self.tables[number])

        def table(hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
            args, kwargs = arguments(hidden, Inputs(position_ids, [], None))
            found: tuple[Tensor, Tensor] = module(*args, **kwargs)
            return found

        table(self.calls[0].input, self.position_ids)
        return table

    def table_of(self, layer: int) -> int | None:
        """The number of the rotary embedding that a layer is given."""
        given = [self._number(value) for value in self.calls[layer].kwargs.values()]
        return next((number for number in given if number is not None), None)

    def own(self, call: Call, layer: int) -> OwnModule:
        """What the model calls in a layer, for other tokens. Raises NotLeanError."""
        given, arguments = [*call.args, *call.kwargs.values()], self.arguments(call, layer)
        assert self.pack.inputs is not None
        arguments(call.input, self.pack.inputs)
        masked = any(isinstance(value, Tensor) and value.dim() == 4 for value in given)
        return OwnModule(call.module, arguments, masked)

    def arguments(self, call: Call, layer: int | None = None) -> Arguments:
        """What a module is called with, for other tokens; called itself it raises NotLeanError for what is unknown."""

        def replaced(name: str, value: Any, hidden: Tensor, inputs: Inputs) -> Any:
            table = self._number(value)
            if table is not None:
                return inputs.tables[table]
            if isinstance(value, Tensor) and value.shape == self.position_ids.shape and not value.is_floating_point():
                return inputs.position_ids
            if isinstance(value, Tensor) and self._is_positions(value):
                return inputs.position_ids.expand(len(value), -1, -1)
            if isinstance(value, Tensor) and same(value, call.input):
                return hidden
            if isinstance(value, Tensor) and layer is not None and value.dim() == 4:
                return mask_of(inputs.masks, self.decoder.config, layer)
            if isinstance(value, Tensor | tuple | list | dict):
                raise NotLeanError(f"{name} of {type(call.module).__name__} is something unknown")
            return value

        def arguments(hidden: Tensor, inputs: Inputs) -> tuple[list[Any], dict[str, Any]]:
            args = [replaced(str(i), value, hidden, inputs) for i, value in enumerate(call.args)]
            return args, {name: replaced(name, value, hidden, inputs) for name, value in call.kwargs.items()}

        return arguments

    def _number(self, value: Any) -> int | None:
        """Of the rotary embedding that gave it."""
        return next((i for i, table in enumerate(self.tables) if value is table.output), None)

    def _is_positions(self, value: Tensor) -> bool:
        """Whether it says the tokens' positions several times: text's are the same in time, height and width."""
        same_shape = value.dim() == 3 and value.shape[1:] == self.position_ids.shape and not value.is_floating_point()
        return same_shape and (not self.verify or bool((value == self.position_ids).all()))

    def masks(self, hidden: Tensor, position_ids: Tensor) -> Any:
        """What transformers masks packed documents with: one mask, or one for every type of layer."""
        from transformers.masking_utils import create_masks_for_generate

        return create_masks_for_generate(self.decoder.config, hidden, None, None, position_ids)

    def window(self, layer: int) -> int | None:
        """Of sliding attention, by the rules that transformers makes masks by (`create_masks_for_generate`)."""
        config: Any = self.decoder.config
        types = getattr(config, "layer_types", None)
        if types is not None and types[layer] not in ("full_attention", "sliding_attention"):
            raise NotLeanError(f"its attention is {types[layer]}")
        if getattr(config, "attention_chunk_size", None) is not None:
            raise NotLeanError("its attention is chunked")
        slides = types is None or types[layer] == "sliding_attention"
        return getattr(config, "sliding_window", None) if slides else None


def mask_of(masks: Any, config: Any, layer: int) -> Any:
    if not isinstance(masks, dict):
        return masks
    kind = config.layer_types[layer]
    if kind not in masks:
        raise NotLeanError(f"layers of {kind} are given masks of several kinds")
    return masks[kind]


def _gives_table(call: Call) -> bool:
    """Whether it computed cosines and sines: two tensors from no parameters."""
    pair = isinstance(call.output, tuple) and len(call.output) == 2
    return pair and all(isinstance(part, Tensor) for part in call.output) and not list(call.module.parameters())
