"""What a fine-tune does to each weight of its base, one tensor at a time and without the model.

A change maps a stored weight (fp32, in the file's orientation) to the weight that serves alone what base and adapter
serve together. The adapter is attached to a model without values, so that it is read by the same strict rules as for
training.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lorica.exporting.skeleton import Skeleton
from lorica.lora.checkpoint import CONFIG, adapter_tensors, load_adapter, packing_of, part_of, read_files
from lorica.lora.layer import LoraEmbedding, LoraLayer
from lorica.lora.peft_config import MAGNITUDE, PREFIX, ROWS, lora_config, pair_keys
from lorica.lora.targets import find_targets, tied_pair
from lorica.lora.weights import is_transposed
from lorica.models.packing import choose_types
from lorica.models.stored import Stored
from lorica.quant import Codec, codec


class Change(Protocol):
    def apply(self, weight: Tensor) -> Tensor:
        """The changed weight, fp32, of `weight`, fp32 and of the shape that the base's file has."""
        ...


@dataclass(frozen=True)
class LowRank:
    """`weight + scale * up @ down`, then DoRA's rescaling of each output. `down` (r, in), `up` (out, r), `magnitude`
    (out) or None. `transposed`: the file has the weight as (in, out); an `embedding` has it as (vocabulary, dim).
    `packed`: the weight is first rounded so, where the adapter makes up for that rounding (LoftQ)."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None
    transposed: bool = False
    embedding: bool = False
    packed: Codec | None = None

    def apply(self, weight: Tensor) -> Tensor:
        weight = weight if self.packed is None else self.packed.rounded(weight)
        weight = weight.t() if self.transposed else weight
        merged = torch.addmm(weight, self.up, self.down, alpha=self.scale)
        if self.magnitude is not None:
            merged *= (self.magnitude / merged.norm(dim=1))[:, None]
        return merged.t() if self.transposed else merged


@dataclass(frozen=True)
class Replaced:
    """A weight trained whole."""

    value: Tensor

    def apply(self, weight: Tensor) -> Tensor:
        return self.value


@dataclass(frozen=True)
class Trained:
    """A weight of a fully trained model, read when it is asked for."""

    stored: Stored

    def apply(self, weight: Tensor) -> Tensor:
        return self.stored.read().float()


@dataclass(frozen=True)
class NewRows:
    """Some rows of an embedding or of its tied head: `rows` (tokens, dim)."""

    tokens: list[int]
    rows: Tensor

    def apply(self, weight: Tensor) -> Tensor:
        changed = weight.clone()
        changed[self.tokens] = self.rows
        return changed


@dataclass(frozen=True)
class Kept:
    """The half of a tied pair that stays as it was while the other changes."""

    def apply(self, weight: Tensor) -> Tensor:
        return weight


@dataclass(frozen=True)
class Changes:
    """`by_parameter`: a change for each parameter that is not the base's. `copies`: what PEFT saved of the base itself.
    `tied`: (embedding, head) parameter names if the base has one weight for both, and `untie` whether the fine-tune
    makes them two. `notes` are lines the user should see."""

    by_parameter: dict[str, Change]
    copies: dict[str, Tensor] = field(default_factory=dict)
    tied: tuple[str, str] | None = None
    untie: bool = False
    notes: list[str] = field(default_factory=list)


def read_changes(base: Skeleton, path: Path, *, allow_other_base: bool = False) -> Changes:
    """The changes of the adapter at `path`, PEFT's folder or a GGUF file.

    Strict as `load_adapter`, whose ValueErrors it raises.
    """
    pair = tied_pair(base.model)
    values, _, tensors = read_files(path, base.model.config)
    config = lora_config(values, part_of(path, CONFIG))
    tokens = find_targets(base.model, config, every_name_matches=False).rows
    packing = packing_of(path)
    types = choose_types(base.model, packing)[1]
    if pair is not None:
        types[f"{pair[1]}.weight"] = types.get(f"{pair[0]}.weight", "")
    held = base if packing == "as-is" else replace(base, hashes=base.hashes | {"weights": packing})
    adapter = load_adapter(held, path, allow_other_base=allow_other_base)
    unused = tensors.keys() - adapter_tensors(adapter).keys()
    copies = {key.removeprefix(PREFIX).replace(".base_layer.", "."): tensors[key] for key in unused}
    found: dict[str, Change] = {}
    for name, layer in adapter.layers.items():
        change, type_name = _low_rank(name, layer, tensors), types.get(f"{name}.weight")
        found[f"{name}.weight"] = replace(change, packed=codec(type_name)) if type_name else change
    for name, copied in adapter.copies.items():
        keys = [f"{name}.{key}" for key, _ in copied.trained.named_parameters()]
        found |= {key: Replaced(tensors[PREFIX + key].float()) for key in keys}
    for name in adapter.rows:
        source = name if name in tokens else pair[0] if pair else name
        rows = tensors[f"{PREFIX}{source}{ROWS}"].float()
        found[f"{name}.weight"] = NewRows(tokens[source], rows)
    adapter.detach()
    tied = None if pair is None else (f"{pair[0]}.weight", f"{pair[1]}.weight")
    return Changes(found, copies, tied, tied is not None and _take_head(found, tied), adapter.notes)


def _low_rank(name: str, layer: LoraLayer, tensors: dict[str, Tensor]) -> LowRank:
    embedding = isinstance(layer, LoraEmbedding)
    down, up = pair_keys(name, embedding)
    magnitude = tensors.get(f"{PREFIX}{name}{MAGNITUDE}")
    return LowRank(
        tensors[down].float(),
        tensors[up].float(),
        layer.strengths[0].scale,
        None if magnitude is None else magnitude.float(),
        is_transposed(layer.base),
        embedding,
    )


def _take_head(found: dict[str, Change], tied: tuple[str, str]) -> bool:
    """Whether the fine-tune makes two weights of a tied pair; where not, the embedding's change is that of both."""
    untie = not _same(*(found.get(name) for name in tied))
    for name in tied if untie else ():
        found.setdefault(name, Kept())
    if not untie:
        found.pop(tied[1], None)
    return untie


def _same(first: Change | None, second: Change | None) -> bool:
    """Whether a tied pair stays one weight."""
    if isinstance(first, NewRows) and isinstance(second, NewRows):
        return True  # the head was given the embedding's own rows
    if isinstance(first, Replaced) and isinstance(second, Replaced):
        return torch.equal(first.value, second.value)
    return first is None and second is None
