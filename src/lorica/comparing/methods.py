"""The ways to fine-tune that are compared, and the runs that find each one's learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from lorica.config import Resolved, default_learning_rate, to_yaml
from lorica.config import override as overridden

FULL = "full"
FACTORS = (1 / 3, 1.0, 3.0)  # of the default learning rate


@dataclass(frozen=True)
class Method:
    """`settings` are overrides of the configuration; None of `lora.*` has an effect on full fine-tuning."""

    name: str
    settings: tuple[str, ...]

    @property
    def is_full(self) -> bool:
        return self.name == FULL


def method_of(name: str) -> Method:
    """`lora`, `full`, or the packed form of the base that an adapter is trained on, such as `nf4` or `q4_k_m`."""
    if name == FULL:
        return Method(name, ("method=full",))
    return Method(name, () if name == "lora" else (f"model.weights={name}",))


@dataclass(frozen=True)
class Planned:
    """One run of a comparison: its folder's name, and its whole configuration as YAML."""

    method: str
    lr: float
    seed: int
    name: str
    config: str


def planned(resolved: Resolved, method: Method, lr: float, seed: int, out: str) -> Planned:
    """Raises ConfigError for settings that the method does not have."""
    name = f"{method.name}-lr{lr:.3g}-seed{seed}"
    settings = [*method.settings, f"train.lr={lr!r}", f"train.seed={seed}", f"out={out}/{name}"]
    return Planned(method.name, lr, seed, name, to_yaml(overridden(_fitting(resolved, method), settings)))


def rates(hidden_size: int, model_type: str, method: Method) -> list[float]:
    """Around the rule's learning rate, rounded to three digits, the lowest first."""
    rule, _ = default_learning_rate(hidden_size, model_type, "full" if method.is_full else "lora")
    return [float(f"{min(rule * factor, 1.0):.3g}") for factor in FACTORS]


def _fitting(resolved: Resolved, method: Method) -> Resolved:
    """Without what the method has no use for: a comparison gives the adapter's settings for those that have one."""
    if not method.is_full:
        return resolved
    origins = {
        key: "default" if key.startswith("lora.") or key == "train.loraplus_lr_ratio" else origin
        for key, origin in resolved.origins.items()
    }
    return Resolved(resolved.config, origins)
