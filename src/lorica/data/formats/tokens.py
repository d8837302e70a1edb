"""Rows of token ids that somebody else made, in the form of Hugging Face trainers.

`labels[t]` is `input_ids[t]` where that token is trained and -100 where it is not: the shift by one happens later, in
the loss. Without labels, all tokens are trained. Tokens that one of TRL's masks holds 0 for are not. What
`attention_mask` leaves out is padding, and removed.
"""

from __future__ import annotations

from itertools import compress
from typing import Any

from lorica.data.faults import RowError, brief
from lorica.data.formats.records import Tokens
from lorica.data.messages import json_text
from lorica.data.sources.row import Row
from lorica.data.supervision import Supervision, read_weight

IGNORED = -100
TRAINED_MASKS = ("completion_mask", "assistant_masks")  # TRL's
LARGEST = 2**31


def read_tokens(row: Row, supervision: Supervision) -> Tokens:
    """A row of `input_ids`, and perhaps `labels`, masks of what is trained, and `attention_mask`."""
    ids = _integers(row, "input_ids")
    if wrong := [id for id in ids if not 0 <= id < LARGEST]:
        raise RowError(f"{row.source}: `input_ids` must be token ids from 0; found {wrong[0]}.")
    labels = _integers(row, "labels", len(ids)) if "labels" in row.values else ids
    for key in TRAINED_MASKS:
        if key in row.values:
            trained = _bits(row, key, len(ids))
            labels = [label if one else IGNORED for label, one in zip(labels, trained, strict=True)]
    if "attention_mask" in row.values:
        mask = _mask(row, len(ids))
        ids, labels = list(compress(ids, mask)), list(compress(labels, mask))
    for place, (id, label) in enumerate(zip(ids, labels, strict=True)):
        if label not in (IGNORED, id):
            raise RowError(
                f"{row.source}: labels[{place}] is {label} where input_ids[{place}] is {id}. A label is its own "
                f"token's id, or {IGNORED} where the token is not trained; labels that are shifted by one are not read."
            )
    weight = read_weight(row.source, row.values)
    weights = [0.0 if label == IGNORED else weight for label in labels]
    return Tokens(row.source, ids, [0.0, *weights[1:]])


def _integers(row: Row, key: str, length: int | None = None) -> list[int]:
    value: Any = json_text(row.source, key, row.values[key])
    if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
        raise RowError(f"{row.source}: `{key}` must be a list of whole numbers; found {brief(value)}.")
    if length is not None and len(value) != length:
        raise RowError(f"{row.source}: `{key}` has {len(value)} numbers where `input_ids` has {length}.")
    return value


def _bits(row: Row, key: str, length: int) -> list[int]:
    bits = _integers(row, key, length)
    if not {*bits} <= {0, 1}:
        raise RowError(f"{row.source}: `{key}` must be ones and zeros; found {brief(bits)}.")
    return bits


def _mask(row: Row, length: int) -> list[int]:
    """Ones, with padding on one side or both.

    Raises:
        RowError: it holds something else, or a hole: packed rows and prefix masks are not read.
    """
    mask = _integers(row, "attention_mask", length)
    first = mask.index(1) if 1 in mask else 0
    if mask != [0] * first + [1] * sum(mask) + [0] * (length - first - sum(mask)) or not any(mask):
        raise RowError(f"{row.source}: `attention_mask` must be ones, with zeros only as padding at the ends.")
    return mask
