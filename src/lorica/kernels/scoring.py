"""How the queries of a pack score its keys, and what attention's backward pass is given of the forward one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lorica.kernels.documents import Documents


@dataclass(frozen=True)
class Scoring:
    """As `lorica.kernels.attention` says of its arguments; `window` is None where no document is longer than it."""

    documents: Documents
    scale: float
    window: int | None
    softcap: float

    @classmethod
    def of(cls, documents: Documents, scale: float, window: int | None, softcap: float) -> Scoring:
        assert window is None or window > 0, f"a window of {window} tokens"
        return cls(documents, scale, None if window is None or window >= documents.longest else window, softcap)

    @property
    def is_plain(self) -> bool:
        """Whether every key of the document before a query counts, as it is."""
        return self.window is None and not self.softcap


class Saved(NamedTuple):
    """q (tokens, heads, dim), k and v (tokens, kv_heads, dim), `out` (tokens, heads, dim), `lse` (heads, tokens)."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor


Gradients = tuple[Tensor, Tensor, Tensor]
