"""The tensors of safetensors files by name, each read when it is asked for."""

import math
from collections.abc import Iterable, Iterator, Mapping
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
        with safe_open(self.file, "pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


class StoredTensors(Mapping[str, Tensor]):
    """The values by name, mapped from their file until they are dropped. Raises ValueError as `stored_tensors`."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._stored = stored_tensors(files)

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """All tensors of `files` by name, from their headers.

    Raises ValueError for a file that is truncated or otherwise damaged, a type that torch lacks, and a name that two
    files hold.
    """
    found: dict[str, StoredTensor] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                headers = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}); download it again.") from None
        for name, (dtype, shape) in headers.items():
            if dtype not in TORCH_DTYPES:
                raise ValueError(f"{path}: {name} is stored as {dtype}, which Lorica does not read; use a 16-bit base.")
            if name in found:
                raise ValueError(f"{path} holds {name}, which {found[name].file.name} holds too.")
            found[name] = StoredTensor(name, path, TORCH_DTYPES[dtype], list(shape))
    return found
