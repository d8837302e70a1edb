"""What one lane of an adapter is, where several train side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorica.config.schema import LoraConfig

OWN = ("r", "alpha", "rank_pattern", "alpha_pattern", "use_rslora")


@dataclass(frozen=True)
class Lane:
    """The adapter that a lane trains, and the seed of its start. Lanes of one adapter may differ in rank, alpha, their
    patterns, `use_rslora` and the seed."""

    config: LoraConfig
    seed: int = 0


def check_lanes(lanes: Sequence[Lane]) -> None:
    """Raises ValueError where there is no lane, or lanes differ in what has to be one thing for all."""
    if not lanes:
        raise ValueError("an adapter has at least one lane.")
    first = _common(lanes[0].config)
    for number, lane in enumerate(lanes):
        differing = [key for key, value in _common(lane.config).items() if value != first[key]]
        if differing:
            raise ValueError(
                f"lanes 0 and {number} differ in lora.{differing[0]}; lanes of one adapter may differ in "
                f"{', '.join(OWN)} and the seed. Train the others in a pass of their own."
            )


def _common(config: LoraConfig) -> dict[str, object]:
    return {key: value for key, value in config.model_dump().items() if key not in OWN}
