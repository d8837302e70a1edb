"""Well-known shapes of models, for plans of models that are not here: sizes as their publishers give them."""

from typing import Any

_LLAMA_2 = {"vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_LLAMA_1 = _LLAMA_2 | {"max_position_embeddings": 2048}
_LLAMA_3 = {"vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}
_QWEN_3 = {"vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "head_dim": 128}


def _decoder(hidden: int, intermediate: int, layers: int, heads: int, key_heads: int, **others: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    return {"model_type": "llama", "num_attention_heads": heads, "num_key_value_heads": key_heads} | sizes | others


SHAPES: dict[str, dict[str, Any]] = {
    # Touvron et al. 2023, arXiv:2302.13971, table 2
    "llama-7b": _decoder(4096, 11008, 32, 32, 32, **_LLAMA_1),
    "llama-13b": _decoder(5120, 13824, 40, 40, 40, **_LLAMA_1),
    "llama-33b": _decoder(6656, 17920, 60, 52, 52, **_LLAMA_1),
    "llama-65b": _decoder(8192, 22016, 80, 64, 64, **_LLAMA_1),
    # Touvron et al. 2023, arXiv:2307.09288
    "llama-2-7b": _decoder(4096, 11008, 32, 32, 32, **_LLAMA_2),
    "llama-2-13b": _decoder(5120, 13824, 40, 40, 40, **_LLAMA_2),
    "llama-2-70b": _decoder(8192, 28672, 80, 64, 8, **_LLAMA_2),
    # Grattafiori et al. 2024, arXiv:2407.21783, table 3
    "llama-3-8b": _decoder(4096, 14336, 32, 32, 8, **_LLAMA_3),
    "llama-3-70b": _decoder(8192, 28672, 80, 64, 8, **_LLAMA_3),
    "llama-3.1-405b": _decoder(16384, 53248, 126, 128, 8, **_LLAMA_3 | {"max_position_embeddings": 131072}),
    # Yang et al. 2025, arXiv:2505.09388, table 1
    "qwen3-4b": _decoder(2560, 9728, 36, 32, 8, **_QWEN_3 | {"model_type": "qwen3", "tie_word_embeddings": True}),
    "qwen3-8b": _decoder(4096, 12288, 36, 32, 8, **_QWEN_3 | {"model_type": "qwen3"}),
    "qwen3-14b": _decoder(5120, 17408, 40, 40, 8, **_QWEN_3 | {"model_type": "qwen3"}),
    "qwen3-32b": _decoder(5120, 25600, 64, 64, 8, **_QWEN_3 | {"model_type": "qwen3"}),
}
