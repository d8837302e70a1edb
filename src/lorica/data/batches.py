"""Microbatches: whole documents laid end to end in one row, with the positions whose prediction is trained.

One row without padding, and `position_ids` that restart at every document: transformers reads the restarts and keeps
attention inside each document. Only supervised positions reach the vocabulary projection, which is where most of the
memory of a small fine-tune would otherwise go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.data.examples import Example
from lorica.data.packing import pack

SUPERVISED = ("predict_at", "labels", "weights", "owners")  # what a batch has for each supervised token


@dataclass(frozen=True)
class Batch:
    """Some documents packed into one row.

    Shapes: `input_ids` and `position_ids` (1, tokens) int64; `predict_at`, `labels` and `owners` (supervised,) int64;
    `weights` (supervised,) float32. `predict_at[k]` is the position whose next token, `labels[k]`, is supervised with
    `weights[k]` and belongs to document `members[owners[k]]`. `members` are indices into the examples that were
    packed, in row order, and `lengths` are their tokens.
    """

    input_ids: Tensor
    position_ids: Tensor
    predict_at: Tensor
    labels: Tensor
    weights: Tensor
    owners: Tensor
    members: list[int]
    lengths: list[int]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        values: dict[str, Any] = vars(self)
        moved: dict[str, Any] = {key: x.to(device) for key, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **moved)

    def rounded(self, multiple: int) -> Batch:
        """With tokens and supervised positions up to a multiple of so many: a document of tokens 0 at the end, and
        positions of weight 0. For one lane."""
        tokens, supervised = -self.input_ids.shape[1] % multiple, -len(self.labels) % multiple
        count = torch.arange(tokens, device=self.input_ids.device).unsqueeze(0)
        by_supervised: dict[str, Any] = {name: F.pad(getattr(self, name), (0, supervised)) for name in SUPERVISED}
        return replace(
            self,
            input_ids=F.pad(self.input_ids, (0, tokens)),
            position_ids=torch.cat([self.position_ids, count], 1),
            lengths=[*self.lengths, tokens] if tokens else self.lengths,
            **by_supervised,
        )


def microbatches(examples: list[Example], capacity: int) -> list[Batch]:
    """Packs `examples` into rows of at most `capacity` tokens; an example longer than that gets a row of its own."""
    return [_join(examples, members) for members in pack([len(e.input_ids) for e in examples], capacity)]


def _join(examples: list[Example], members: list[int]) -> Batch:
    documents = [examples[member] for member in members]
    ids = _integers(token for document in documents for token in document.input_ids)
    weights = torch.tensor([weight for document in documents for weight in document.weights], dtype=torch.float32)
    owners = _integers(owner for owner, document in enumerate(documents) for _ in document.input_ids)
    supervised = weights.nonzero().squeeze(1)
    return Batch(
        input_ids=ids.unsqueeze(0),
        position_ids=_integers(i for document in documents for i in range(len(document.input_ids))).unsqueeze(0),
        predict_at=supervised - 1,
        labels=ids[supervised],
        weights=weights[supervised],
        owners=owners[supervised],
        members=members,
        lengths=[len(document.input_ids) for document in documents],
    )


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
