"""Adapters in llama.cpp's format: one GGUF file with `<tensor>.lora_a` and `.lora_b` for each adapted matrix.

llama.cpp adds `alpha / rank * B A x`, with one alpha for the file and each pair's own rank; alpha 0 stands for a scale
of one. The rows of B are in the order of the weight's rows in the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorica.gguf.architectures import architecture
from lorica.gguf.metadata import Metadata
from lorica.gguf.read import read
from lorica.gguf.split import GgufModel

_ENDINGS = (".lora_a", ".lora_b")


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to a matrix: `scale * up @ down`, `down` (rank, in) and `up` (out, rank) in fp32 and
    transformers' order. Of an embedding, `in` is the vocabulary."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class GgufAdapter:
    """`pairs` by transformers' parameter names; `architecture` is that of the base it belongs to."""

    metadata: Metadata
    architecture: str
    pairs: Mapping[str, Pair]


def read_adapter(path: str | Path, heads: int, key_heads: int) -> GgufAdapter:
    """Read an adapter for a model of so many heads.

    Raises ValueError for a file that is no adapter, or has half of a pair, halves that do not fit together, matrices
    that the architecture does not have, or values that are not finite.
    """
    file = GgufModel([read(path)])
    metadata = file.metadata
    kind = (metadata.text("general.type", "model"), metadata.text("adapter.type", "lora"))
    if kind != ("adapter", "lora"):
        raise ValueError(f"{path} holds a {kind[0]} ({kind[1]}), where a LoRA adapter belongs.")
    found = architecture(metadata.text("general.architecture"), path)
    alpha = metadata.number("adapter.lora.alpha")
    pairs = {}
    for tensor in _adapted(file):
        parameter = found.parameter(tensor)
        place = None if parameter is None else found.place(parameter, heads, key_heads)
        if parameter is None or place is None:
            raise ValueError(f"{path} adapts {tensor}, which no {found.name} model in transformers has.")
        down, up = (file.values(tensor + ending) for ending in _ENDINGS)
        down = down.t() if tensor.startswith("token_embd.") else down  # stored by rows of the vocabulary
        _check_pair(path, tensor, down, up)
        rank = down.shape[0]
        pairs[parameter] = Pair(down.contiguous(), place.from_file(up), alpha / rank if alpha else 1.0)
    if not pairs:
        raise ValueError(f"{path} adapts no tensor; it is empty.")
    return GgufAdapter(metadata, found.name, pairs)


def _adapted(file: GgufModel) -> list[str]:
    """The tensors that the file has a pair for, each once, in its order."""
    for name in file.tensors:
        if not name.endswith(_ENDINGS):
            raise ValueError(f"{file.path} has the tensor {name}; Lorica reads pairs of lora_a and lora_b only.")
        if not all(name[:-7] + ending in file.tensors for ending in _ENDINGS):
            raise ValueError(f"{file.path} has {name} without its other half; the adapter is incomplete.")
    return list(dict.fromkeys(name[:-7] for name in file.tensors))


def _check_pair(path: str | Path, tensor: str, down: Tensor, up: Tensor) -> None:
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise ValueError(f"{path}: the halves for {tensor} are {shapes}, which do not multiply; the file is damaged.")
    if not torch.isfinite(down).all() or not torch.isfinite(up).all():
        raise ValueError(f"{path}: the pair for {tensor} holds NaN or infinite values; this adapter cannot be used.")
