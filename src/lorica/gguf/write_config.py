"""The metadata of a GGUF file from a transformers config."""

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from lorica.gguf.architectures import Architecture, architecture_of_type
from lorica.gguf.read_config import EPSILON, GELU, GEMMA_27B_LAYERS, SILU, SIZES, WINDOW_PATTERN, attention_scalar
from lorica.gguf.rope import write_rope
from lorica.gguf.values import Value, count, number, text


def write_config(config: PretrainedConfig) -> tuple[dict[str, Value], dict[str, Tensor]]:
    """Metadata of the architecture for a transformers config, and the fp32 tensors that belong to it (rope factors).

    Raises ValueError for a model that has no GGUF form here, or that llama.cpp would compute otherwise.
    """
    found = architecture_of_type(config.model_type)
    if found is None:
        raise ValueError(f"models of the type {config.model_type} have no GGUF form in Lorica.")
    _check_computed_alike(config, found)
    name = found.name
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = {"general.architecture": text(name)}
    values |= {f"{name}.{key}": count(getattr(config, field)) for key, field in SIZES.items()}
    values[f"{name}.{EPSILON}"] = number(config.rms_norm_eps)
    values |= {f"{name}.attention.{kind}_length": count(head_size) for kind in ("key", "value")}
    values[f"{name}.vocab_size"] = count(config.vocab_size)
    full, local = _flat_rope(config)
    rotated = int(head_size * full.get("partial_rotary_factor", 1.0))
    values[f"{name}.rope.dimension_count"] = count(rotated)
    if local is not None:
        values[f"{name}.rope.freq_base_swa"] = number(local["rope_theta"])
    rope, factors = write_rope(full, name, rotated // 2)
    return values | rope | _write_own(config, name), factors


def _flat_rope(config: PretrainedConfig) -> tuple[dict[str, Any], dict[str, Any] | None]:
    rope = config.rope_parameters
    return (rope["full_attention"], rope["sliding_attention"]) if "full_attention" in rope else (rope, None)


def _write_own(config: PretrainedConfig, name: str) -> dict[str, Value]:
    own: dict[str, Value] = {}
    if name == "phi3":
        own["phi3.attention.sliding_window"] = count(config.sliding_window or 0)
        own["phi3.rope.scaling.original_context_length"] = count(config.original_max_position_embeddings)
    if name in GEMMA_27B_LAYERS:
        if "sliding_attention" in config.layer_types:
            own[f"{name}.attention.sliding_window"] = count(config.sliding_window)
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if getattr(config, key, None):
                own[f"{name}.{key}"] = number(getattr(config, key))
    return own


def _check_computed_alike(config: PretrainedConfig, found: Architecture) -> None:
    """Raises ValueError where llama.cpp's graph of the architecture is another function than transformers' model."""
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", SILU)
    differences = []
    if activation != (GELU if found.norm_shift else SILU):
        differences.append(f"the activation {activation}")
    if found.name in GEMMA_27B_LAYERS:
        scalar = attention_scalar(found.name, vars(config), config.head_dim)
        if config.query_pre_attn_scalar != scalar:
            differences.append(f"query_pre_attn_scalar {config.query_pre_attn_scalar} (llama.cpp takes {scalar})")
        period = WINDOW_PATTERN[found.name]
        usual = [(layer + 1) % period != 0 for layer in range(config.num_hidden_layers)]
        sliding = [kind == "sliding_attention" for kind in config.layer_types]
        if any(sliding) and sliding != usual:
            differences.append("another pattern of sliding windows")
    if getattr(config, "num_local_experts", None):
        differences.append("experts")
    if differences:
        raise ValueError(
            f"llama.cpp computes {found.name} otherwise than this {config.model_type}: it has {', '.join(differences)}."
        )


def rope_pairs(config: PretrainedConfig) -> int:
    """Pairs of features of a head that are rotated."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head_size * _flat_rope(config)[0].get("partial_rotary_factor", 1.0)) // 2
