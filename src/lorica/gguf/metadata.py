"""Metadata by key, each read as the type that is expected of it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lorica.gguf.values import FLOATS, INTEGERS, Type, Value

# Special tokens by transformers' names, and by those of `tokenizer.ggml.*_token_id`.
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


class Metadata(Mapping[str, Value]):
    """The values of a file. Its readers return the default where a key is absent, and without one raise ValueError, as
    they do for a value of another type."""

    def __init__(self, source: Path | str, values: Mapping[str, Value]) -> None:
        self.source, self._values = source, dict(values)

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def text(self, key: str, default: str | None = None) -> str:
        return self._read(key, "text", default, (Type.STRING,))

    def integer(self, key: str, default: int | None = None) -> int:
        return self._read(key, "a whole number", default, INTEGERS)

    def token_id(self, name: str) -> int | None:
        """The id of a special token, by GGUF's name for it. None where the file has none, which some say with -1."""
        id = self.integer(f"tokenizer.ggml.{name}_token_id", -1)
        return None if id in (-1, (1 << 32) - 1) else id

    def number(self, key: str, default: float | None = None) -> float:
        found: float = self._read(key, "a number", default, (*FLOATS, *INTEGERS))
        if not math.isfinite(found):
            raise ValueError(f"{self.source}: {key} is {found}, where a finite number belongs.")
        return found

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above zero."""
        found = self.number(key, default)
        if found <= 0:
            raise ValueError(f"{self.source}: {key} is {found:g}, where a number above zero belongs.")
        return found

    def flag(self, key: str, default: bool | None = None) -> bool:
        return self._read(key, "true or false", default, (Type.BOOL,))

    def texts(self, key: str, default: list[str] | None = None) -> list[str]:
        return self._read(key, "an array of text", default, elements=(Type.STRING,))

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        return self._read(key, "an array of whole numbers", default, elements=INTEGERS)

    def numbers(self, key: str, default: list[float] | None = None) -> list[float]:
        return self._read(key, "an array of numbers", default, elements=(*FLOATS, *INTEGERS))

    def _read(
        self, key: str, what: str, default: Any, types: tuple[Type, ...] = (), elements: tuple[Type, ...] = ()
    ) -> Any:
        """A value of one of the `types`, or an array of one of the `elements`."""
        value = self._values.get(key)
        if value is None and default is None:
            raise ValueError(f"{self.source} has no {key} in its metadata; it is incomplete, or no language model.")
        if value is None:
            return default
        if value.type not in types and value.element not in elements:
            raise ValueError(f"{self.source}: {key} is of type {_type_of(value)}, where {what} belongs.")
        return value.content.tolist() if value.element not in (None, Type.STRING) else value.content


def _type_of(value: Value) -> str:
    return value.type.name if value.element is None else f"{value.type.name} of {value.element.name}"
