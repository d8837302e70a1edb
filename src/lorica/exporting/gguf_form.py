"""A model as the tensors of a GGUF file: read from one, or about to be written to one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorica.gguf.architectures import Architecture, Place, architecture, architecture_of_type
from lorica.gguf.split import GgufModel
from lorica.gguf.types import named
from lorica.gguf.write import Part
from lorica.models.gguf_base import find_place
from lorica.quant import codec

CHUNK = 1 << 24  # weights that are packed between two writes


@dataclass(frozen=True)
class GgufTensor:
    """A parameter of a model in a GGUF file, by transformers' name and in its form: a `Stored`."""

    name: str
    file: GgufModel
    place: Place
    shape: list[int]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    def read(self) -> Tensor:
        """fp32. Raises ValueError for a type that Lorica does not read."""
        if len(self.file.tensors[self.place.tensor].shape) == 1:
            return self.place.from_file(self.file.values(self.place.tensor)) - self.place.shift
        return self.file.codec(self.place.tensor).unpack(self.place.from_file(self.file.rows(self.place.tensor)))


@dataclass(frozen=True)
class Form:
    """How a model of `config` lies in a GGUF file; `file` is the base's own, None for a transformers directory."""

    architecture: Architecture
    config: Any
    file: GgufModel | None = None

    def place(self, parameter: str) -> Place:
        """Raises ValueError for a parameter that has no tensor there."""
        if self.file is not None and (parameter != "lm_head.weight" or "output.weight" in self.file.tensors):
            return find_place(self.file, self.architecture, self.config, parameter)
        found = self.architecture.place(parameter, self.config)
        if found is None:
            raise ValueError(f"GGUF files of {self.architecture.name} have no tensor for {parameter}; use --to merged.")
        return found


def form_of(config: Any, file: GgufModel | None = None) -> Form:
    """Raises ValueError for a model that has no GGUF form here."""
    found = architecture_of_type(config.model_type) if file is None else architecture(file.metadata)
    if found is None:
        raise ValueError(
            f"models of the type {config.model_type} have no GGUF form in Lorica; use --to merged, and llama.cpp's "
            "convert_hf_to_gguf.py on what it writes."
        )
    return Form(found, config, file)


def gguf_tensors(form: Form, model: Any) -> dict[str, GgufTensor]:
    """The parameters of `model`, a skeleton, in the file of `form`. Raises ValueError for one that is missing."""
    assert form.file is not None
    return {
        name: GgufTensor(name, form.file, form.place(name), list(parameter.shape))
        for name, parameter in model.named_parameters()
    }


@dataclass(frozen=True)
class FileTensor:
    """A tensor to be written. `shape` is torch's; `values` gives it in the file's order and any floating dtype;
    `verbatim` its bytes, if it need not be packed to be of `type`."""

    name: str
    shape: tuple[int, ...]
    type: str
    values: Callable[[], Tensor]
    verbatim: Callable[[], Tensor] | None = None

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    def part(self, type_name: str, importance: Tensor | None = None, packed: "Errors | None" = None) -> Part:
        """It as `type_name`; `packed` is told of what rounding did."""
        if self.verbatim is not None and type_name == self.type:
            return Part(self.name, named(type_name), self.shape, self.verbatim)

        def pieces() -> Iterable[Tensor]:
            packing, rows = codec(type_name), self.values().reshape(-1, self.shape[-1])
            for chunk in rows.split(max(1, CHUNK // self.shape[-1])):
                made = packing.pack(chunk, importance)
                if packed is not None:
                    packed.add(type_name, chunk.float(), packing.unpack(made))
                yield made

        return Part(self.name, named(type_name), self.shape, pieces)


class Errors:
    """Sums of squares by type: of the weights, and of what packing changed about them."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}

    def add(self, type_name: str, weights: Tensor, served: Tensor) -> None:
        size, error = self.sums.get(type_name, (0.0, 0.0))
        difference = served.sub_(weights)
        self.sums[type_name] = size + float(weights.square().sum()), error + float(difference.square().sum())

    def relative(self) -> dict[str, float]:
        """||served - weights|| / ||weights||."""
        return {name: (error / size) ** 0.5 if size else 0.0 for name, (size, error) in self.sums.items()}
