"""The tensors of safetensors files by name, read one at a time: each is mapped from its file until it is dropped."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor


class StoredTensors(Mapping[str, Tensor]):
    """Raises ValueError for a damaged file, and for a tensor that two files hold."""

    def __init__(self, files: list[Path]) -> None:
        self._file: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for path in files:
            try:
                self._open[path] = safe_open(path, "pt")
                names = list(self._open[path].keys())
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged ({error}); download it again.") from None
            twice = sorted(self._file.keys() & set(names))
            if twice:
                raise ValueError(f"{path} holds {twice[0]}, which {self._file[twice[0]].name} holds too.")
            self._file |= dict.fromkeys(names, path)

    def __getitem__(self, name: str) -> Tensor:
        return self._open[self._file[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)

    def __contains__(self, name: object) -> bool:
        return name in self._file
