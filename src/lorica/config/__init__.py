"""The run configuration: read, checked strictly, and every value explained. Imports no torch."""

from lorica.config.combinations import check_combination
from lorica.config.data_section import SourceConfig
from lorica.config.describe import json_schema
from lorica.config.errors import ConfigError, Problem
from lorica.config.learning_rate import default_learning_rate
from lorica.config.resolve import Resolved, derive, load, lora_config, override, result_settings
from lorica.config.rules import unused_settings
from lorica.config.schema import (
    LEAVES,
    DataConfig,
    EvaluateConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    SystemConfig,
    TrainConfig,
    value_of,
)
from lorica.config.writing import to_yaml

__all__ = [
    "LEAVES",
    "ConfigError",
    "DataConfig",
    "EvaluateConfig",
    "LoraConfig",
    "ModelConfig",
    "Problem",
    "Resolved",
    "RunConfig",
    "SourceConfig",
    "SystemConfig",
    "TrainConfig",
    "check_combination",
    "default_learning_rate",
    "derive",
    "json_schema",
    "load",
    "lora_config",
    "override",
    "result_settings",
    "to_yaml",
    "unused_settings",
    "value_of",
]
