"""Models of transformers as GGUF files, converted as llama.cpp's converter does it: with the names and the writer of
the `gguf` library and the converter's formulas, none of which the code under test uses."""

import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from lorica.quant import codec

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "ministral3": gguf.MODEL_ARCH.MISTRAL3,
    "seed_oss": gguf.MODEL_ARCH.SEED_OSS,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "olmo3": gguf.MODEL_ARCH.OLMO2,
    "exaone4": gguf.MODEL_ARCH.EXAONE4,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "ernie4_5": gguf.MODEL_ARCH.ERNIE4_5,
    "cohere": gguf.MODEL_ARCH.COMMAND_R,
    "cohere2": gguf.MODEL_ARCH.COHERE2,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
}
PERMUTED = ("llama", "mistral", "granite", "smollm3", "ministral3")  # LlamaModel and its subclasses


def convert(
    model: Any,
    path: Path,
    type: str = "F32",
    extra: dict[str, Tensor] | None = None,
    fuse: bool = False,
    arch: Any = None,
    **values: Any,
) -> Path:
    """Write `model` with matrices packed as `type` where their rows divide, else F32. `values` are further metadata of
    the architecture, with dots as two underscores; `extra` further tensors; `fuse` joins q, k and v."""
    config = model.config
    arch = arch or ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _add_sizes(writer, config)
    for key, value in values.items():
        _add(writer, f"{gguf.MODEL_ARCH_NAMES[arch]}.{key.replace('__', '.')}", value)
    add_words(writer, config.vocab_size)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensors[names.get_name(name, (".weight", ".bias"))] = _reformed(name, tensor, config)
    for name, tensor in (_fused(tensors, config.num_hidden_layers) if fuse else tensors).items():
        _add_tensor(writer, name, tensor, type if tensor.ndim == 2 else "F32")
    for name, tensor in (extra or {}).items():
        _add_tensor(writer, name, tensor, "F32")
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def _reformed(name: str, tensor: Tensor, config: Any) -> Tensor:
    if config.model_type in PERMUTED and ".self_attn.q_proj." in name:
        return permuted(tensor, config.num_attention_heads)
    if config.model_type in PERMUTED and ".self_attn.k_proj." in name:
        return permuted(tensor, config.num_key_value_heads)
    return tensor + 1 if config.model_type.startswith("gemma") and name.endswith("norm.weight") else tensor


def permuted(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp's `LlamaModel.permute`."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def _fused(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    joined = dict(tensors)
    for layer in range(layers):
        for kind in ("weight", "bias"):
            parts = [joined.pop(f"blk.{layer}.attn_{part}.{kind}", None) for part in "qkv"]
            if parts[0] is not None:
                joined[f"blk.{layer}.attn_qkv.{kind}"] = torch.cat(parts)
    return joined


def _add_sizes(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or config.norm_epsilon)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)


def add_words(writer: Any, size: int) -> None:
    """A SentencePiece vocabulary: bytes, letters, and two-letter pieces up to `size`."""
    tokens, kinds = ["<unk>", "<s>", "</s>"], [2, 3, 3]
    letters = ["▁", *"etaoinshrdlu"]
    for token in [*letters, *(a + b for a in letters for b in letters[1:]), *(f"[PAD{i}]" for i in range(size))]:
        if len(tokens) < size:
            tokens.append(token)
            kinds.append(5 if "PAD" in token else 1)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(id) for id in range(size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _add(writer: Any, key: str, value: Any) -> None:
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool}
    add[type(value)](key, value)


def _add_tensor(writer: Any, name: str, tensor: Tensor, type: str) -> None:
    chosen = codec(type)
    if type == "F32" or not chosen.accepts(tensor.shape[-1]):
        writer.add_tensor(name, tensor.detach().float().numpy())
    else:
        packed = chosen.pack(tensor.detach()).numpy()
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType[type])


def tiny_file(path: Path) -> Path:
    """A file of every kind of metadata and two small tensors, for tests of the container."""
    writer = gguf.GGUFWriter(path, "llama")
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"one.{kind}", 100)
    writer.add_float32("one.float32", 0.1)
    writer.add_float64("one.float64", 0.1)
    writer.add_bool("one.bool", True)
    writer.add_string("one.string", "naïve 東京")
    writer.add_array("many.texts", ["a", "", "😀"])
    writer.add_array("many.numbers", [1.5, 2.5])
    writer.add_array("many.flags", [True, False])
    writer.add_tensor("token_embd.weight", np.arange(96, dtype=np.float32).reshape(3, 32))
    writer.add_tensor("output_norm.weight", np.ones(5, dtype=np.float32))
    packed = codec("Q8_0").pack(torch.linspace(-1, 1, 128).view(2, 64)).numpy()
    writer.add_tensor("output.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def mutated(whole: bytes, header: int, rng: random.Random) -> bytes:
    """One to three changes of the header that keep most of it readable: small numbers, letters, types."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(24, header - 8), rng.randrange(4)
        if kind == 0:
            data[at] = rng.choice([0, 1, 2, 3, 7, 8, 255, ord("a"), rng.randrange(256)])
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2, 61, 62, 1 << 20, 1 << 31, (1 << 32) - 1]))
        else:
            data[at : at + 4] = struct.pack("<f", rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")]))
    return bytes(data)
