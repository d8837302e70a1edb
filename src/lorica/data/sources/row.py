"""A row: what every source gives, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """Values by name and where they stand: "file:line", "file[index]" in a JSON list, "file:row" in a table."""

    source: str
    values: dict[str, Any]
