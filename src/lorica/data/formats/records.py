"""What a row becomes once it is read: one of these records, whatever format it was written in."""

from __future__ import annotations

from dataclasses import dataclass

from lorica.data.messages import Conversation


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and its completion as plain strings, joined as they stand, without a chat template."""

    source: str
    prompt: str
    completion: str
    weight: float
    prompt_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of it trained."""

    source: str
    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids that somebody else made; `weights[t]` is the loss weight of predicting `input_ids[t]`."""

    source: str
    input_ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better first. It can be checked and shown; no loss for it exists yet."""

    source: str
    chosen: Conversation | Completion
    rejected: Conversation | Completion


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer and whether it was desirable (KTO). It can be checked and shown; no loss for it exists yet."""

    source: str
    answer: Conversation | Completion
    desirable: bool


Record = Conversation | Completion | Text | Tokens | Preference | Judged
