"""The metadata of a GGUF file from a transformers config.

What is written is read back, and has to be the model that was given: llama.cpp has one value of many settings, which
the reader knows, so a model with another would be computed otherwise.
"""

import math
from collections.abc import Mapping
from inspect import get_annotations
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from lorica.gguf.architectures import Architecture
from lorica.gguf.metadata import Metadata
from lorica.gguf.read import TensorInfo
from lorica.gguf.read_config import SIZES, read_config
from lorica.gguf.rope import write_rope
from lorica.gguf.types import named
from lorica.gguf.values import Value, count, number, text

# Settings that do not change what is computed, or that others decide; rope has its own checks.
NOT_COMPUTED = {"initializer_range", "use_cache", "pretraining_tp", "tie_word_embeddings", "rope_parameters"}
NOT_COMPUTED |= {"max_window_layers", "no_rope_layer_interval", "sliding_window_pattern"}
NOT_COMPUTED_ENDINGS = ("_token_id", "_dropout", "_pdrop")
INSTEAD = "Use --to merged."


def write_config(
    config: PretrainedConfig, found: Architecture, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Value], dict[str, Tensor], list[str]]:
    """Metadata of the architecture `found` for a transformers config, the fp32 tensors that belong to it (rope
    factors), and lines the user should see. `shapes` are those of the file's other tensors.

    Raises ValueError for a model that llama.cpp would compute otherwise.
    """
    if found.head == "own" and config.tie_word_embeddings:
        raise ValueError(f"llama.cpp's {found.name} has an output head of its own, and this model ties it. {INSTEAD}")
    name = found.name
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = {"general.architecture": text(name)}
    values |= {f"{name}.{key}": count(getattr(config, field)) for key, field in SIZES.items()}
    values[f"{name}.{found.epsilon[0]}"] = number(getattr(config, found.epsilon[1]))
    values |= {f"{name}.attention.{kind}_length": count(head_size) for kind in ("key", "value")}
    values[f"{name}.vocab_size"] = count(config.vocab_size)
    full = _full_rope(config, found)
    rotated = int(head_size * full.get("partial_rotary_factor", 1.0))
    values[f"{name}.rope.dimension_count"] = count(rotated)
    rope, factors = write_rope(full, found, rotated // 2)
    values |= rope | _write_own(config, found)
    notes = _check_read_back(config, found, values, shapes, factors)
    return values, factors, notes


def _full_rope(config: PretrainedConfig, found: Architecture) -> dict[str, Any]:
    """The rotation of layers that see everything."""
    rope: dict[str, Any] = config.rope_parameters
    if "full_attention" not in rope:
        return rope
    full, local = rope["full_attention"], rope["sliding_attention"]
    own = found.name == "gemma3"  # OLMo 3's windows have the frequency of the other layers
    if local.get("rope_type", "default") != "default" or not (own or local["rope_theta"] == full["rope_theta"]):
        raise ValueError(f"llama.cpp computes {found.name} with another rotation in layers with a window. {INSTEAD}")
    return dict(full)


def _write_own(config: PretrainedConfig, found: Architecture) -> dict[str, Value]:
    name, own = found.name, dict[str, Value]()
    for key, (field, _) in found.scales.items():
        if getattr(config, field, None):
            own[f"{name}.{key}"] = number(getattr(config, field))
    if found.window and "sliding_attention" in config.layer_types:
        own[f"{name}.attention.sliding_window"] = count(config.sliding_window)
    if name == "gemma3":
        own["gemma3.rope.freq_base_swa"] = number(config.rope_parameters["sliding_attention"]["rope_theta"])
    if name == "phi3":
        own["phi3.attention.sliding_window"] = count(config.sliding_window or 0)
        own["phi3.rope.scaling.original_context_length"] = count(config.original_max_position_embeddings)
    return own


def _check_read_back(
    config: PretrainedConfig,
    found: Architecture,
    values: Mapping[str, Value],
    shapes: Mapping[str, tuple[int, ...]],
    factors: Mapping[str, Tensor],
) -> list[str]:
    """Raises ValueError where llama.cpp's graph of the architecture is another function than transformers' model."""
    held = {**shapes, **{name: tuple(factor.shape) for name, factor in factors.items()}}
    infos = {name: TensorInfo(name, named("F32"), shape, 0, 0) for name, shape in held.items()}
    again = read_config(Metadata(f"this {config.model_type}", values), infos, factors.__getitem__)
    notes, differences = [], []
    for field in get_annotations(type(config)):
        if field in NOT_COMPUTED or field.endswith(NOT_COMPUTED_ENDINGS):
            continue
        wanted, computed = getattr(config, field), getattr(again, field, None)
        if field == "sliding_window" and wanted and not found.window:
            notes.append(
                f"llama.cpp has no sliding window for {found.name}; it attends further back than {wanted:,} tokens"
            )
        elif not _same(wanted, computed):
            differences.append(f"{field} {wanted} (llama.cpp computes with {computed})")
    if differences:
        told = ", ".join(differences)
        raise ValueError(
            f"llama.cpp computes {found.name} otherwise than this {config.model_type}: it has {told}. {INSTEAD}"
        )
    return notes


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)
