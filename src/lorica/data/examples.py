"""What the rest of Lorica trains on: token ids with a loss weight each.

A row of the user's file becomes one `Example`, or several where the server would see its turns in different contexts.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One document to train on.

    `weights[t]` is the loss weight of *predicting* `input_ids[t]`, so `weights[0]` is always 0.
    `completion_start` is the index of the first token of the last supervised turn, which is where generation
    starts when a task metric is measured; None for plain text.
    """

    source: str
    input_ids: list[int]
    weights: list[float]
    completion_start: int | None = None

    def __post_init__(self) -> None:
        assert len(self.input_ids) == len(self.weights), "one weight per token"
        assert not self.weights or self.weights[0] == 0.0, "nothing precedes the first token, so nothing predicts it"

    @property
    def supervised(self) -> int:
        """How many tokens carry a loss."""
        return sum(weight != 0.0 for weight in self.weights)

    def fingerprint(self) -> bytes:
        """16 bytes that are equal for equal token ids and weights, whatever the source and the process."""
        digest = hashlib.blake2b(array("q", self.input_ids).tobytes(), digest_size=16)
        digest.update(array("d", self.weights).tobytes())
        return digest.digest()
