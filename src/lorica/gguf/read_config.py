"""A transformers config from a GGUF file's metadata.

A file's model is what llama.cpp computes with it: where llama.cpp ignores a setting (the sliding windows of `phi3`,
say) or fixes one (Gemma's attention scale), so does the config.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from lorica.gguf.architectures import Architecture, architecture
from lorica.gguf.metadata import SPECIAL, Metadata
from lorica.gguf.read import TensorInfo
from lorica.gguf.rope import FACTORS, LONG, SHORT, read_rope
from lorica.gguf.values import shortest

SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
NOT_READ = {
    "expert_count": "a mixture of experts",
    "nextn_predict_layers": "layers that predict several tokens at once",
    "rope.dimension_sections": "a model of images, which rotates by several positions",
}
COUNTS = ("expert_count", "nextn_predict_layers")  # of which zero is none
MOST_LAYERS = 4096
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}  # llama.cpp tells these by their depth and scales attention otherwise
WINDOWS = {"gemma2": 4096, "exaone4": 4096, "cohere2": None}  # where the file does not say; None is an error
EXAONE_32B_LAYERS = 64  # of its models the only one to which llama.cpp gives windows
NO_ROPE = 4  # every so many layers of SmolLM3 do not rotate, whatever the file says
Sizes = Mapping[str, Any]


def read_config(
    metadata: Metadata, tensors: Mapping[str, TensorInfo], tensor: Callable[[str], Tensor]
) -> PretrainedConfig:
    """The config of the model in a file; `tensor` gives the values of a small fp32 tensor by name.

    Raises ValueError for an architecture that is not supported, experts, sizes that vary between layers, and metadata
    that is missing or not possible.
    """
    found = architecture(metadata)
    name = found.name
    for key, what in NOT_READ.items():
        if metadata.get(f"{name}.{key}") is not None and (key not in COUNTS or metadata.integer(f"{name}.{key}")):
            raise ValueError(f"{metadata.source} holds {what}, which Lorica does not read from GGUF files.")
    fields: dict[str, Any] = {}
    for key, field in SIZES.items():  # keys have as many heads as queries unless the file says otherwise
        default = fields["num_attention_heads"] if key.endswith("_kv") else None
        fields[field] = _size(metadata, f"{name}.{key}", default)
    fields[found.epsilon[1]] = shortest(metadata.positive(f"{name}.{found.epsilon[0]}"))
    fields["vocab_size"] = _vocabulary(metadata, tensors)
    fields["tie_word_embeddings"] = found.head == "tied" or "output.weight" not in tensors
    head_size = _head_size(metadata, found, fields)
    if head_size != _usual_head(fields) or hasattr(CONFIG_MAPPING[found.model_type], "head_dim"):
        fields["head_dim"] = head_size
    fields |= {**found.fixed, **_token_ids(metadata)}
    fields |= {field: f"blk.0.{stem}.bias" in tensors for field, stem in found.biases.items()}
    fields |= _scales(metadata, found, head_size) | _windows(metadata, found, fields)
    rotated = metadata.integer(f"{name}.rope.dimension_count", head_size)
    factors = {
        key: _factors(metadata, key, tensors[key], tensor, rotated // 2)
        for key in (FACTORS, LONG, SHORT)
        if key in tensors
    }
    rope = read_rope(metadata, found, factors, fields["max_position_embeddings"])
    if found.partly_rotated:
        rope["partial_rotary_factor"] = rotated / head_size
    fields |= _own_fields(metadata, found, fields, head_size)
    fields["rope_parameters"] = _by_layer_type(metadata, found, rope)
    try:
        return AutoConfig.for_model(found.model_type, **fields)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        told = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{metadata.source}: transformers refuses what its metadata says: {told}") from None


def _size(metadata: Metadata, key: str, default: int | None = None) -> int:
    """A size that may be given once a layer, if it is the same in each."""
    value = metadata.get(key)
    if value is not None and value.element is not None:
        each = set(metadata.integers(key))
        if len(each) != 1:
            raise ValueError(f"{metadata.source}: {key} differs between layers, which Lorica does not read.")
        size = each.pop()
    else:
        size = metadata.integer(key, default)
    most = MOST_LAYERS if key.endswith("block_count") else 1 << 31
    if not 0 < size < most:
        raise ValueError(f"{metadata.source}: {key} is {size:,}, which is no size of a model.")
    return size


def _vocabulary(metadata: Metadata, tensors: Mapping[str, TensorInfo]) -> int:
    info = tensors.get("token_embd.weight")
    if info is None or len(info.shape) != 2:
        raise ValueError(f"{metadata.source} has no matrix token_embd.weight; it is incomplete, or no language model.")
    return info.shape[0]


def _usual_head(fields: Sizes) -> int:
    return int(fields["hidden_size"] // fields["num_attention_heads"])


def _head_size(metadata: Metadata, found: Architecture, fields: Sizes) -> int:
    keys = metadata.integer(f"{found.name}.attention.key_length", _usual_head(fields))
    values = metadata.integer(f"{found.name}.attention.value_length", keys)
    if keys != values or not 0 < keys < 1 << 16 or keys % 2:
        raise ValueError(f"{metadata.source}: heads of {keys} for keys and {values} for values, which Lorica lacks.")
    rotated = metadata.integer(f"{found.name}.rope.dimension_count", keys)
    if not 0 < rotated <= keys or rotated % 2 or (rotated != keys and not found.partly_rotated):
        raise ValueError(
            f"{metadata.source}: only {rotated} of {keys} features of a head are rotated, unlike {found.name}."
        )
    return keys


def _factors(metadata: Metadata, key: str, info: TensorInfo, tensor: Callable[[str], Tensor], pairs: int) -> Tensor:
    """What the frequency of each pair of features is divided by."""
    if info.shape != (pairs,):
        raise ValueError(f"{metadata.source}: {key} is {info.shape}, and heads have {pairs} pairs of features.")
    found = tensor(key)
    if not (torch.isfinite(found) & (found > 0)).all():
        raise ValueError(f"{metadata.source}: {key} holds values that are not above zero; the file is damaged.")
    return found


def _token_ids(metadata: Metadata) -> dict[str, int | None]:
    return {f"{ours}_token_id": metadata.token_id(SPECIAL[ours]) for ours in ("bos", "eos", "pad")}


def _scales(metadata: Metadata, found: Architecture, head_size: int) -> dict[str, float | None]:
    """Numbers that llama.cpp multiplies by; it does not where they are absent or zero."""
    scales: dict[str, float | None] = {}
    for key, (field, default) in found.scales.items():
        scales[field] = shortest(metadata.number(f"{found.name}.{key}", 0.0)) or default
    if "attention_multiplier" in scales and scales["attention_multiplier"] is None:
        scales["attention_multiplier"] = head_size**-0.5
    return scales


def _windows(metadata: Metadata, found: Architecture, fields: Sizes) -> dict[str, Any]:
    """Which layers see a window of tokens only."""
    if not found.window:
        return {}
    name, layers = found.name, fields["num_hidden_layers"]
    window = metadata.integer(f"{name}.attention.sliding_window", WINDOWS.get(name, 0))
    if not 0 <= window < 1 << 31:
        raise ValueError(f"{metadata.source}: a sliding window of {window:,} tokens.")
    if name == "exaone4" and layers != EXAONE_32B_LAYERS:
        window = 0
    return {"sliding_window": window or None, "layer_types": _layer_types(metadata, found, layers, window)}


def _layer_types(metadata: Metadata, found: Architecture, layers: int, window: int) -> list[str]:
    key = f"{found.name}.attention.sliding_window_pattern"
    value = metadata.get(key)
    if not window:
        sliding = [False] * layers
    elif value is not None and value.element is not None:
        sliding = [bool(one) for one in value.content][:layers]
    else:
        period = metadata.integer(key, found.window)
        sliding = [period == 0 or (layer + 1) % period != 0 for layer in range(layers)]
    if len(sliding) != layers:
        raise ValueError(f"{metadata.source}: {key} has {len(sliding)} entries for {layers} layers.")
    return ["sliding_attention" if one else "full_attention" for one in sliding]


def _own_fields(metadata: Metadata, found: Architecture, fields: Sizes, head_size: int) -> dict[str, Any]:
    """What only one model has."""
    if found.name in GEMMA_27B_LAYERS:
        largest = fields["num_hidden_layers"] == GEMMA_27B_LAYERS[found.name]
        return {"query_pre_attn_scalar": _usual_head(fields) if largest else head_size}
    if found.name == "smollm3":
        layers = range(fields["num_hidden_layers"])
        return {"no_rope_layers": [int((layer + 1) % NO_ROPE != 0) for layer in layers]}
    if found.name == "phi3":
        original = metadata.integer("phi3.rope.scaling.original_context_length", fields["max_position_embeddings"])
        return {"sliding_window": None, "original_max_position_embeddings": original}
    return {}


def _by_layer_type(metadata: Metadata, found: Architecture, rope: dict[str, Any]) -> dict[str, Any]:
    """Layers with a window rotate otherwise: Gemma 3's at a frequency of their own, OLMo 3's unscaled."""
    if found.model_type not in ("gemma3_text", "olmo3"):
        return rope
    default = 10000.0 if found.name == "gemma3" else rope["rope_theta"]
    local = default if found.name == "olmo2" else metadata.positive(f"{found.name}.rope.freq_base_swa", default)
    sliding = {"rope_type": "default", "rope_theta": shortest(local)}
    return {"full_attention": rope, "sliding_attention": sliding}
