"""The tensors of safetensors files by name, each read when it is asked for."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorica.files import TORCH_DTYPES


class Stored(Protocol):
    """A tensor of the base, wherever it lies."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def numel(self) -> int: ...

    def read(self) -> Tensor: ...


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file. `shape` as the file has it."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: list[int]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """The values, mapped from the file until they are dropped."""
        with safe_open(self.file, "pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """All tensors of `files` by name, from their headers.

    Raises ValueError for a file that is truncated or otherwise damaged, a type that torch lacks, and a name that two
    files hold.
    """
    found: dict[str, StoredTensor] = {}
    for path in files:
        for name, (dtype, shape) in read_header(path).items():
            if dtype not in TORCH_DTYPES:
                raise ValueError(f"{path}: {name} is stored as {dtype}, which Lorica does not read; use a 16-bit base.")
            if name in found:
                raise ValueError(f"{path} holds {name}, which {found[name].file.name} holds too.")
            found[name] = StoredTensor(name, path, TORCH_DTYPES[dtype], shape)
    return found


def stored_dtype(files: Iterable[Path]) -> torch.dtype:
    """The type of most of the stored values; fp32 if that is none that models compute in. Raises ValueError for a
    damaged file."""
    values: Counter[str] = Counter()
    for path in files:
        for dtype, shape in read_header(path).values():
            values[dtype] += math.prod(shape)
    most = TORCH_DTYPES.get(max(values, key=values.__getitem__, default=""), torch.float32)
    return most if most.is_floating_point else torch.float32


def read_header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """The type, in safetensors' words, and the shape of every tensor of a file. Raises ValueError for a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {name: (part.get_dtype(), list(part.get_shape())) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); download it again.") from None
