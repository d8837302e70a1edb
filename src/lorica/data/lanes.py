"""Microbatches of several lanes as one: a row a lane, each what the lane would be given alone.

Lanes draw their own rows in their own order, so their packs differ in length. What is short is filled with one more
document, which nobody is trained on and nobody sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.data.batches import Batch

FILLING = 0  # a token id that every vocabulary has


@dataclass(frozen=True)
class LaneBatch:
    """One row for each lane.

    `batch` has `input_ids` and `position_ids` (lanes, tokens); its `predict_at` counts tokens over all lanes, lane by
    lane. `lanes` (supervised,) is the lane of each supervised token; `parts` are the lanes' own batches, None where a
    lane has nothing left in this step.
    """

    batch: Batch
    lanes: Tensor
    parts: list[Batch | None]

    def to(self, device: torch.device | str) -> LaneBatch:
        return LaneBatch(self.batch.to(device), self.lanes.to(device), self.parts)


def side_by_side(parts: Sequence[Batch | None]) -> LaneBatch:
    """One row a part, filled to the longest."""
    width = max(part.input_ids.shape[1] for part in parts if part is not None)
    lanes = [
        torch.full((0 if part is None else len(part.labels),), lane, dtype=torch.int64)
        for lane, part in enumerate(parts)
    ]
    held = [(lane, part) for lane, part in enumerate(parts) if part is not None]
    batch = Batch(
        input_ids=torch.cat([_ids(part, width) for part in parts]),
        position_ids=torch.cat([_positions(part, width) for part in parts]),
        predict_at=torch.cat([part.predict_at + lane * width for lane, part in held]),
        labels=torch.cat([part.labels for _, part in held]),
        weights=torch.cat([part.weights for _, part in held]),
        owners=torch.cat([part.owners for _, part in held]),
        members=[member for _, part in held for member in part.members],
        lengths=[length for part in parts for length in _lengths(part, width)],
    )
    return LaneBatch(batch, torch.cat(lanes), list(parts))


def _ids(part: Batch | None, width: int) -> Tensor:
    row = torch.empty(1, 0, dtype=torch.int64) if part is None else part.input_ids
    return torch.nn.functional.pad(row, (0, width - row.shape[1]), value=FILLING)


def _positions(part: Batch | None, width: int) -> Tensor:
    """Positions of the part's documents, then those of the filling, which begin anew."""
    held = 0 if part is None else part.input_ids.shape[1]
    filling = torch.arange(width - held).unsqueeze(0)
    return filling if part is None else torch.cat([part.position_ids, filling], 1)


def _lengths(part: Batch | None, width: int) -> list[int]:
    held = [] if part is None else part.lengths
    filling = width - sum(held)
    return [*held, filling] if filling else held
