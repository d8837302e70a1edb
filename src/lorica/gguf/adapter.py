"""Adapters in llama.cpp's format: one GGUF file with `<tensor>.lora_a` and `.lora_b` for each adapted matrix.

llama.cpp adds `alpha / rank * B A x`, with one alpha for the file and each pair's own rank; alpha 0, or none, stands
for a scale of one. The rows of B are in the order of the weight's rows in the file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorica.gguf.architectures import architecture, model_types
from lorica.gguf.read import read
from lorica.gguf.split import GgufModel, holds_adapter

ENDINGS = (".lora_a", ".lora_b")
EMBEDDING = "token_embd.weight"


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to a matrix: `alpha / rank * up @ down`, `down` (rank, in) and `up` (out, rank) in fp32. Of
    an embedding, `in` is the vocabulary."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def read_adapter(path: str | Path, config: Any) -> dict[str, Pair]:
    """The pairs of an adapter for models of `config`, by transformers' parameter names and in its order of rows.

    Raises ValueError as `read_pairs`, and for an adapter of another architecture or of matrices that it does not have.
    """
    file = GgufModel([read(path)])
    pairs = read_pairs(file)
    found = architecture(file.metadata)
    if config.model_type not in model_types(found.name):
        raise ValueError(f"the adapter in {path} is for {found.name} models, and this one is a {config.model_type}.")
    named = {}
    for tensor, pair in pairs.items():
        parameter = found.parameter(tensor)
        place = parameter and found.place(parameter, config)
        if not parameter or not place:
            raise ValueError(f"{path} adapts {tensor}, which no {found.name} model in transformers has.")
        named[parameter] = replace(pair, up=place.from_file(pair.up))
    return named


def read_pairs(file: GgufModel) -> dict[str, Pair]:
    """The pairs by the tensors that they adapt, rows in the file's order.

    Raises ValueError for a file that is no adapter, or has half of a pair, halves that do not fit together, other
    tensors, or values that are not finite.
    """
    kind = file.metadata.text("adapter.type", "lora")
    if not holds_adapter(file) or kind != "lora":
        held = file.metadata.text("general.type", "model")
        raise ValueError(f"{file.path} holds a {held} ({kind}), where a LoRA adapter belongs.")
    alpha = file.metadata.number("adapter.lora.alpha", 0.0)
    pairs = {}
    for tensor in _adapted(file):
        down, up = (file.values(tensor + ending) for ending in ENDINGS)
        down = down.t() if tensor == EMBEDDING else down  # stored by rows of the vocabulary
        _check_pair(file.path, tensor, down, up)
        pairs[tensor] = Pair(down.contiguous(), up, alpha or float(down.shape[0]))
    if not pairs:
        raise ValueError(f"{file.path} adapts no tensor; it is empty.")
    return pairs


def _adapted(file: GgufModel) -> list[str]:
    """The tensors that the file has a pair for, each once, in its order."""
    for name in file.tensors:
        if not name.endswith(ENDINGS):
            raise ValueError(f"{file.path} has the tensor {name}; Lorica reads pairs of lora_a and lora_b only.")
        if not all(name[:-7] + ending in file.tensors for ending in ENDINGS):
            raise ValueError(f"{file.path} has {name} without its other half; the adapter is incomplete.")
    return list(dict.fromkeys(name[:-7] for name in file.tensors))


def _check_pair(path: Path, tensor: str, down: Tensor, up: Tensor) -> None:
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise ValueError(f"{path}: the halves for {tensor} are {shapes}, which do not multiply; the file is damaged.")
    if not torch.isfinite(down).all() or not torch.isfinite(up).all():
        raise ValueError(f"{path}: the pair for {tensor} holds NaN or infinite values; this adapter cannot be used.")
