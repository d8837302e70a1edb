"""llama.cpp computes the logits of transformers from the models and adapters that are written for it."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: make judge")

import judges
import made
import torch
from transformers import Phi3Config, Phi3ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import tiny_models as tiny
from lorica import export
from lorica.exporting.quantise import quantise
from lorica.models import load

VOCABULARY = 300
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96}
SIZES |= {"num_attention_heads": 8, "num_key_value_heads": 4}
GEMMA = SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
OTHER_LINEARS = {
    "phi3": FUSED,
    "glm4": ["q_proj", "k_proj", "v_proj", *FUSED[1:]],
    "starcoder2": ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"],
}


def phi3() -> Any:
    return tiny.made(Phi3ForCausalLM, Phi3Config(**tiny.COMMON | SIZES | {"original_max_position_embeddings": 64}))


def qwen3() -> Any:
    return tiny.made(Qwen3ForCausalLM, Qwen3Config(**tiny.COMMON | SIZES | {"head_dim": 8}))


BASES: dict[str, Any] = {
    "llama": lambda: tiny.llama(**SIZES),
    "tied llama": lambda: tiny.llama(**SIZES | {"tie_word_embeddings": True}),
    "llama3 rope": lambda: tiny.llama(**SIZES | {"rope_parameters": LLAMA3}),
    "qwen2": lambda: tiny.qwen2(**SIZES),
    "qwen3": qwen3,
    "gemma": lambda: tiny.gemma(**SIZES | {"head_dim": 16}),
    "gemma2": lambda: tiny.gemma2(**GEMMA),
    "gemma3": lambda: tiny.gemma3(**GEMMA),
    "phi3": phi3,
    "ministral3": lambda: tiny.ministral3(**SIZES),
    "granite": lambda: tiny.granite(**SIZES),
    "smollm3": lambda: tiny.smollm3(**SIZES | {"num_hidden_layers": 5, "no_rope_layers": None}),
    "seed_oss": lambda: tiny.seed_oss(**SIZES | {"head_dim": 16}),
    "olmo2": lambda: tiny.olmo2(**SIZES),
    "olmo3": lambda: tiny.olmo3(**SIZES),
    "exaone4": lambda: tiny.exaone4(**SIZES),
    "glm4": lambda: tiny.glm4(**SIZES),
    "ernie4_5": lambda: tiny.ernie4_5(**SIZES),
    "command-r": lambda: tiny.cohere(**SIZES),
    "cohere2": lambda: tiny.cohere2(**SIZES),
    "starcoder2": lambda: tiny.starcoder2(**SIZES),
}


def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (1, 20), generator=torch.Generator().manual_seed(0))


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - wanted).abs().max() / wanted.abs().max()) < tolerance


@pytest.mark.parametrize("name", BASES)
def test_a_base_and_an_adapter_beside_it(name: str, tmp_path: Path) -> None:
    gelu = "gemma" in name or name == "starcoder2"
    tolerance = 5e-4 if gelu else 1e-5  # llama.cpp looks GELU up in a table of fp16 values
    base, ids = made.write_model(tmp_path / "base", BASES[name]()), tokens()
    quantise(base, "F32", tmp_path / "base.gguf")
    plain = made.by_transformers(base, ids)[0]
    close(judges.logits(tmp_path / "base.gguf", ids[0].tolist()), plain, tolerance)
    fields = {"target_modules": OTHER_LINEARS.get(name, LINEARS), "rank_pattern": {"o_proj": 5}, "use_rslora": True}
    adapter, live = made.write_adapter(tmp_path / "adapter", base, **fields)
    assert export(adapter, "gguf-adapter", out=tmp_path / "out").ok
    wanted = tiny.logits(live.model, ids)[0]
    assert float((wanted - plain).abs().max()) > 0.1
    close(judges.logits(tmp_path / "base.gguf", ids[0].tolist(), tmp_path / "out" / "adapter.gguf"), wanted, tolerance)


def test_exaone_with_windows(tmp_path: Path) -> None:
    """Which llama.cpp gives to the model of 64 layers. Their rounding adds up: 2e-5, where a wrong window is 1."""
    deep = {"num_hidden_layers": 64, "sliding_window": 5, "layer_types": None, "initializer_range": 0.05}
    base, ids = made.write_model(tmp_path / "base", tiny.exaone4(**SIZES | deep)), tokens()
    quantise(base, "F32", tmp_path / "base.gguf")
    close(judges.logits(tmp_path / "base.gguf", ids[0].tolist()), made.by_transformers(base, ids)[0], 1e-4)


MERGED: dict[str, dict[str, Any]] = {
    "dora": {"target_modules": LINEARS, "use_dora": True},
    "modules": {"target_modules": ["q_proj", "k_proj"], "modules_to_save": ["norm", "mlp"]},
    "token rows": {"target_modules": ["k_proj"], "trainable_token_indices": [3, 60]},
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "pissa": {"target_modules": LINEARS, "init_lora_weights": "pissa"},
}


@pytest.mark.parametrize("case", MERGED)
@pytest.mark.parametrize("tied", [False, True])
def test_merged(case: str, tied: bool, tmp_path: Path) -> None:
    base = made.write_model(tmp_path / "base", tiny.llama(**SIZES | {"tie_word_embeddings": tied}))
    adapter, live = made.write_adapter(tmp_path / "adapter", base, **MERGED[case])
    assert export(adapter, "gguf", type="F32", out=tmp_path / "out").ok
    ids = tokens()
    close(judges.logits(tmp_path / "out" / "model.gguf", ids[0].tolist()), tiny.logits(live.model, ids)[0])


def test_an_adapter_of_embedding_and_head(tmp_path: Path) -> None:
    base, ids = made.write_model(tmp_path / "base", tiny.llama(**SIZES)), tokens()
    quantise(base, "F32", tmp_path / "base.gguf")
    fields = {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}
    adapter, live = made.write_adapter(tmp_path / "adapter", base, **fields)
    assert export(adapter, "gguf-adapter", out=tmp_path / "out").ok
    found = judges.logits(tmp_path / "base.gguf", ids[0].tolist(), tmp_path / "out" / "adapter.gguf")
    close(found, tiny.logits(live.model, ids)[0])


@pytest.mark.parametrize(
    ("type_name", "most"), [("F16", 2e-3), ("Q8_0", 0.03), ("Q5_0", 0.03), ("Q6_K", 0.04), ("Q4_K_M", 0.04)]
)
def test_packed_types_within_what_int8_activations_cost(type_name: str, most: float, tmp_path: Path) -> None:
    """llama.cpp rounds the inputs of packed products to int8, which on models this small is up to 4 % of the logits."""
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512}
    base, ids = made.write_model(tmp_path / "base", tiny.llama(**sizes | {"initializer_range": 0.06})), tokens()
    quantise(base, type_name, tmp_path / "base.gguf")
    wanted = tiny.logits(load(tmp_path / "base.gguf", dtype="fp32").model, ids)[0]
    found = judges.logits(tmp_path / "base.gguf", ids[0].tolist())
    assert float((found - wanted).norm() / wanted.norm()) < most
