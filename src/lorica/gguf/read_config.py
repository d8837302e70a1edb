"""A transformers config from a GGUF file's metadata.

A file's model is what llama.cpp computes with it: where llama.cpp ignores a setting (the sliding windows of `phi3`,
say) or fixes one (Gemma's attention scale), so does the config.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from lorica.gguf.architectures import architecture
from lorica.gguf.metadata import Metadata
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
EPSILON = "attention.layer_norm_rms_epsilon"
MOST_LAYERS = 4096
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}  # llama.cpp tells these by their depth and scales attention otherwise
WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6}
SILU, GELU = "silu", "gelu_pytorch_tanh"


def read_config(
    metadata: Metadata, tensors: Mapping[str, TensorInfo], tensor: Callable[[str], Tensor]
) -> PretrainedConfig:
    """The config of the model in a file; `tensor` gives the values of a small fp32 tensor by name.

    Raises ValueError for an architecture that is not supported, experts, sizes that vary between layers, and metadata
    that is missing or not possible.
    """
    found = architecture(metadata.text("general.architecture"), metadata.source)
    name = found.name
    if metadata.integer(f"{name}.expert_count", 0):
        raise ValueError(f"{metadata.source} holds a mixture of experts, which Lorica does not read from GGUF files.")
    fields: dict[str, Any] = {}
    for key, field in SIZES.items():  # keys have as many heads as queries unless the file says otherwise
        default = fields["num_attention_heads"] if key.endswith("_kv") else None
        fields[field] = _size(metadata, f"{name}.{key}", default)
    fields["rms_norm_eps"] = shortest(metadata.positive(f"{name}.{EPSILON}"))
    fields["vocab_size"] = _vocabulary(metadata, tensors)
    fields["tie_word_embeddings"] = found.always_tied or "output.weight" not in tensors
    head_size = _head_size(metadata, name, fields)
    fields |= _head_fields(name, fields, head_size) | _token_ids(metadata)
    pairs = metadata.integer(f"{name}.rope.dimension_count", head_size) // 2
    factors = {
        key: _factors(metadata, key, tensors[key], tensor, pairs) for key in (FACTORS, LONG, SHORT) if key in tensors
    }
    rope = read_rope(metadata, name, factors, fields["max_position_embeddings"])
    fields |= _own_fields(name, metadata, tensors, fields, head_size)
    fields["rope_parameters"] = _rope_field(name, metadata, rope, head_size)
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


def _head_size(metadata: Metadata, name: str, fields: Mapping[str, Any]) -> int:
    usual = fields["hidden_size"] // fields["num_attention_heads"]
    keys = metadata.integer(f"{name}.attention.key_length", usual)
    values = metadata.integer(f"{name}.attention.value_length", keys)
    if keys != values or not 0 < keys < 1 << 16 or keys % 2:
        raise ValueError(f"{metadata.source}: heads of {keys} for keys and {values} for values, which Lorica lacks.")
    rotated = metadata.integer(f"{name}.rope.dimension_count", keys)
    if not 0 < rotated <= keys or rotated % 2 or (rotated != keys and name != "phi3"):
        raise ValueError(f"{metadata.source}: only {rotated} of {keys} features of a head are rotated, unlike {name}.")
    return keys


def _factors(metadata: Metadata, key: str, info: TensorInfo, tensor: Callable[[str], Tensor], pairs: int) -> Tensor:
    """What the frequency of each pair of features is divided by."""
    if info.shape != (pairs,):
        raise ValueError(f"{metadata.source}: {key} is {info.shape}, and heads have {pairs} pairs of features.")
    found = tensor(key)
    if not (torch.isfinite(found) & (found > 0)).all():
        raise ValueError(f"{metadata.source}: {key} holds values that are not above zero; the file is damaged.")
    return found


def _head_fields(name: str, fields: Mapping[str, Any], head_size: int) -> dict[str, Any]:
    usual = fields["hidden_size"] // fields["num_attention_heads"]
    return {} if name in ("qwen2", "phi3") and head_size == usual else {"head_dim": head_size}


def _token_ids(metadata: Metadata) -> dict[str, int | None]:
    ids = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {field: _token_id(metadata, f"tokenizer.ggml.{key}") for field, key in ids.items()}


def _token_id(metadata: Metadata, key: str) -> int | None:
    return metadata.integer(key) if key in metadata else None


def _own_fields(
    name: str, metadata: Metadata, tensors: Mapping[str, TensorInfo], fields: Mapping[str, Any], head_size: int
) -> dict[str, Any]:
    if name in ("llama", "qwen3"):
        own: dict[str, Any] = {"hidden_act": SILU, "attention_bias": "blk.0.attn_q.bias" in tensors}
        return own | ({"mlp_bias": "blk.0.ffn_gate.bias" in tensors} if name == "llama" else {})
    if name == "gemma":
        return {"hidden_act": GELU}
    if name in GEMMA_27B_LAYERS:
        return {"hidden_activation": GELU} | _gemma_fields(name, metadata, fields, head_size)
    if name == "phi3":
        original = metadata.integer("phi3.rope.scaling.original_context_length", fields["max_position_embeddings"])
        return {"hidden_act": SILU, "sliding_window": None, "original_max_position_embeddings": original}
    return {"hidden_act": SILU}


def _gemma_fields(name: str, metadata: Metadata, fields: Mapping[str, Any], head_size: int) -> dict[str, Any]:
    layers = fields["num_hidden_layers"]
    window = metadata.integer(f"{name}.attention.sliding_window", 4096 if name == "gemma2" else 0)
    if not 0 <= window < 1 << 31:
        raise ValueError(f"{metadata.source}: a sliding window of {window:,} tokens.")
    own: dict[str, Any] = {"query_pre_attn_scalar": attention_scalar(name, fields, head_size)}
    own["sliding_window"] = window or None
    own["layer_types"] = _layer_types(metadata, name, layers, window)
    final = metadata.number(f"{name}.final_logit_softcapping", 30.0 if name == "gemma2" else 0.0)
    own["final_logit_softcapping"] = shortest(final) or None
    if name == "gemma2":
        own["attn_logit_softcapping"] = shortest(metadata.positive("gemma2.attn_logit_softcapping", 50.0))
    return own


def attention_scalar(name: str, fields: Mapping[str, Any], head_size: int) -> int:
    """llama.cpp divides attention scores by the root of this."""
    if fields["num_hidden_layers"] == GEMMA_27B_LAYERS[name]:
        return int(fields["hidden_size"] // fields["num_attention_heads"])
    return head_size


def _layer_types(metadata: Metadata, name: str, layers: int, window: int) -> list[str]:
    key = f"{name}.attention.sliding_window_pattern"
    value = metadata.get(key)
    if not window:
        sliding = [False] * layers
    elif value is not None and value.element is not None:
        sliding = [bool(one) for one in value.content][:layers]
    else:
        period = metadata.integer(key, WINDOW_PATTERN[name])
        sliding = [period == 0 or (layer + 1) % period != 0 for layer in range(layers)]
    if len(sliding) != layers:
        raise ValueError(f"{metadata.source}: {key} has {len(sliding)} entries for {layers} layers.")
    return ["sliding_attention" if one else "full_attention" for one in sliding]


def _rope_field(name: str, metadata: Metadata, rope: dict[str, Any], head_size: int) -> dict[str, Any]:
    if name == "gemma3":
        local = shortest(metadata.positive("gemma3.rope.freq_base_swa", 10000.0))
        return {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    if name == "phi3":
        return rope | {"partial_rotary_factor": metadata.integer("phi3.rope.dimension_count", head_size) / head_size}
    return rope
