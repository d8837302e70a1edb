"""What the layers know of the tokens in hand beside their hidden states."""

from dataclasses import dataclass

from torch import Tensor

from lorica.kernels.documents import Documents


@dataclass(frozen=True)
class Pack:
    """Some documents end to end, those of every lane after those of the lane before: (lanes * tokens) rows.

    `tables` are the cosines and sines, each (rows, width), by the number of the model's rotary embedding. `keys`
    (tokens,) or (lanes, tokens) tell dropout what each token is; None is no dropout.
    """

    documents: Documents
    lanes: int
    tables: tuple[tuple[Tensor, Tensor], ...]
    keys: Tensor | None = None
