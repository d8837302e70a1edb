"""The run configuration: read, checked strictly, and every value explained. Imports no torch."""

from lorica.config.schema import (
    DataConfig,
    EvaluateConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    SystemConfig,
    TrainConfig,
)

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "LoraConfig",
    "ModelConfig",
    "RunConfig",
    "SystemConfig",
    "TrainConfig",
]
