"""JSON as the standard has it: no NaN, and no key twice in one object without notice."""

from __future__ import annotations

import json
from typing import Any

from lorica.data.faults import RowError
from lorica.data.sources.lines import AROUND


class JsonDecoder:
    """Decodes values; `take_repeated` tells, once, a key that stood twice in an object of those decoded since."""

    def __init__(self) -> None:
        self._repeated: str | None = None
        decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=self._object)
        self.decode, self.raw_decode = decoder.decode, decoder.raw_decode

    def take_repeated(self) -> str | None:
        repeated, self._repeated = self._repeated, None
        return repeated

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [key for key, _ in pairs]
            self._repeated = next(key for key in keys if keys.count(key) > 1)
        return made


def broken(place: str, error: json.JSONDecodeError, text: str, expected: str) -> RowError:
    """What is broken, and the text around it."""
    seen = text[max(0, error.pos - AROUND) : error.pos + AROUND]
    return RowError(f"{place}: broken JSON: {error.msg} at {seen!r}. {expected}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON allows")
