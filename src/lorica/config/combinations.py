"""What can be combined with what, in one table: ways to train, starts, bases, and the pairs that are refused, with why.

A configuration is checked against it when it is read, an adapter before it is attached and a sweep before its base is
loaded. What is not listed goes together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Feature:
    """Something a user asks for: how a message calls it, the setting that asks, and for which of its values."""

    label: str
    key: str
    asked: Callable[[Any], bool]


def _start(name: str) -> Feature:
    label = f"lora.init_lora_weights: {name}"
    return Feature(label, "lora.init_lora_weights", lambda value: str(value).startswith(name))


FEATURES = {
    "full": Feature("method: full", "method", lambda value: value == "full"),
    "packed": Feature("packed weights (model.weights)", "model.weights", lambda value: value != "as-is"),
    "dense": Feature("model.weights: as-is", "model.weights", lambda value: value == "as-is"),
    "rslora": Feature("lora.use_rslora", "lora.use_rslora", bool),
    "loraplus": Feature("LoRA+ (train.loraplus_lr_ratio)", "train.loraplus_lr_ratio", lambda value: value != 1),
    "dora": Feature("lora.use_dora", "lora.use_dora", bool),
    "pissa": _start("pissa"),
    "olora": _start("olora"),
    "loftq": _start("loftq"),
    "eva": _start("eva"),
    "search": Feature("train.lr: auto", "train.lr", lambda value: value == "auto"),
    "dropout": Feature("lora.dropout", "lora.dropout", bool),
    "whole modules": Feature("lora.modules_to_save", "lora.modules_to_save", bool),
    "token rows": Feature("lora.trainable_token_indices", "lora.trainable_token_indices", bool),
    "evaluations": Feature("evaluate.every", "evaluate.every", bool),
    "trackers": Feature("system.trackers", "system.trackers", bool),
    # No setting asks for these: the caller says so.
    "lanes": Feature("several lanes", "", bool),
    "sweep": Feature("a sweep", "", bool),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Two features that do not go together; `why` says what to do too."""

    first: str
    second: str
    why: str

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(FEATURES[name].key for name in (self.first, self.second) if FEATURES[name].key)

    @property
    def is_of_settings(self) -> bool:
        """Whether settings ask for both; else a caller does."""
        return len(self.settings) == 2

    def __str__(self) -> str:
        first, second = (FEATURES[name].label for name in (self.first, self.second))
        return f"{first} and {second} cannot be combined: {self.why}"


_DORA = (
    "DoRA's magnitudes are those of the weight, whose leading part the start takes into the pair; leave use_dora out, "
    "or set init_lora_weights to true"
)
_ONE_LANE = "a part that is not low-rank has one copy, which lanes would share; train one such run at a time"
_RULE = "leave train.lr out, which takes the rule of the model's width, or give a number"
REFUSED = (
    Refusal("full", "packed", "packed weights cannot be trained; set model.weights: as-is, or method: lora"),
    Refusal("full", "sweep", "its lanes are adapters over one frozen base; set method: lora, or use lorica compare"),
    Refusal("dora", "pissa", _DORA),
    Refusal("dora", "olora", _DORA),
    Refusal(
        "loftq",
        "dense",
        "loftq starts from what packing a 16-bit base loses, and here nothing is packed (of a GGUF file the weights "
        "from before are gone); set model.weights to nf4, q4_k_m ..., or leave loftq out",
    ),
    Refusal("lanes", "whole modules", _ONE_LANE),
    Refusal("lanes", "token rows", _ONE_LANE),
    Refusal("sweep", "whole modules", _ONE_LANE),
    Refusal("sweep", "token rows", _ONE_LANE),
    Refusal("sweep", "evaluations", "its trials are measured where they are compared; leave it out"),
    Refusal("sweep", "trackers", "they follow one run; leave it out, and see sweep.html"),
    Refusal("search", "full", f"the rates are tried side by side, as adapters over one frozen base; {_RULE}"),
    Refusal("search", "whole modules", f"the rates are tried side by side, and such a part has one copy; {_RULE}"),
    Refusal("search", "token rows", f"the rates are tried side by side, and such a part has one copy; {_RULE}"),
    Refusal("search", "sweep", f"the search is of one run; give the sweep several learning rates, or {_RULE}"),
)


def asked_for(values: Mapping[str, Any]) -> set[str]:
    """The features that settings, by dotted key, ask for; those whose setting is not among them are left out."""
    return {name for name, feature in FEATURES.items() if feature.key in values and feature.asked(values[feature.key])}


def check_combination(values: Mapping[str, Any], *given: str) -> None:
    """Raises ValueError where two of the features that `values` ask for, or are `given`, do not go together."""
    features = asked_for(values) | set(given)
    refused = [str(refusal) for refusal in REFUSED if {refusal.first, refusal.second} <= features]
    if refused:
        raise ValueError(". ".join(refused) + ".")
