"""How often an epoch holds each row, where sources have weights.

Rows are tokenised and stored once whatever their weight; a mixture only says which of them an epoch names, how often.
Held-out rows are chosen before, so that they are the same in every mixture and none is counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorica.data.store import StoredExamples


def mix(examples: StoredExamples, rows: Sequence[int], weights: Sequence[float]) -> StoredExamples:
    """The examples of an epoch: those of a source with weight 2.5 twice, and a fixed half of its rows a third time.

    Which rows are in the part is decided by their content, so that it does not depend on the order of the data.

    Args:
        rows: how many rows each source has; rows are numbered through all sources.
        weights: of each source.

    Raises:
        ValueError: nothing is left.
    """
    if all(weight == 1 for weight in weights) or not examples:
        return examples
    weight = np.repeat(np.asarray(weights, dtype=np.float64), rows)[examples.rows]
    first = np.searchsorted(examples.rows, examples.rows)  # of the examples of the same row
    chance = examples.contents[first] / 2.0**64  # a hash of the row, as a number from 0 to 1
    copies = np.floor(weight) + (chance < weight % 1)
    mixed = examples.take(np.repeat(np.arange(len(examples)), copies.astype(np.int64)))
    if not mixed:
        raise ValueError(f"No row is left for training with weights {', '.join(map(str, weights))}; raise them.")
    return mixed
