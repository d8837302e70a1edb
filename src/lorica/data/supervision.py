"""What of a conversation is trained, and with which weight.

The loss weight of a message is the product of its row's, its own and its role's. A role that the configuration does not
name weighs 1 if `train_on` includes it, and also where a message asks to be trained itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lorica.data.faults import RowError, brief

if TYPE_CHECKING:
    from lorica.config.data_section import DataConfig

TRAINING_KEYS = ("train", "weight", "loss_weight")
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Supervision:
    """`train_on`, `role_weights` and `reasoning` as the configuration's data section means them.

    `train_on` may also be "none", which is how a prompt is read.
    """

    train_on: str = "assistant"
    role_weights: Mapping[str, float] = field(default_factory=dict)
    reasoning: str = "train"

    @classmethod
    def of(cls, config: DataConfig) -> Supervision:
        """What the configuration asks for."""
        return cls(
            config.train_on, {str(role): weight for role, weight in config.role_weights.items()}, config.reasoning
        )

    def message_weight(self, place: str, role: str, values: Mapping[str, Any]) -> float:
        """The weight of a message (or part of one) of this role, from its own `train`, `weight` or `loss_weight`."""
        own = read_weight(place, values)
        asked = any(values.get(key) is not None for key in TRAINING_KEYS)
        answers = role == "assistant" and self.train_on != "none"
        base = 1.0 if asked or answers or self.train_on == "all" else 0.0
        return self.role_weights.get(role, base) * own

    def only_last(self, roles: list[str], weights: list[float]) -> list[float]:
        """With `train_on: last`, the weights of a conversation without those before its last assistant message."""
        if self.train_on != "last" or "assistant" not in roles:
            return weights
        last = len(roles) - 1 - roles[::-1].index("assistant")
        return [weight if index >= last else 0.0 for index, weight in enumerate(weights)]


def read_weight(place: str, values: Mapping[str, Any]) -> float:
    """The loss weight that a row or message asks for with `weight` (a number) and `train` (true or false).

    Text is read as what it says, since a CSV file has nothing else. A missing value, null or no text asks for nothing.

    Raises:
        RowError: naming `place`, where either is something else.
    """
    train = values.get("train") if values.get("train") != "" else None
    train = BOOLEANS.get(train.strip().lower(), train) if isinstance(train, str) else train
    if train is not None and not isinstance(train, bool):
        raise RowError(f"{place}: `train` must be true or false; found {brief(train)}.")
    given = [values[key] for key in ("weight", "loss_weight") if values.get(key) not in (None, "")]
    weight = _number(given[0]) if given else 1.0
    if weight is None or not 0 <= weight < math.inf or len(given) > 1:
        found = " and ".join(map(brief, given))
        raise RowError(f"{place}: `weight` must be one finite number from 0 (it scales the loss); found {found}.")
    return 0.0 if train is False else weight


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
