"""Every family that llama.cpp and Lorica both know: transformers' model, our GGUF file of it, our base from that file.

What llama.cpp makes of the same files is in tests/judge; that a file of the converter's form is read right, with names
and rows from the `gguf` library, in tests/models/test_gguf_base.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import pytest
import torch

import tiny_models as tiny
from lorica import export
from lorica.exporting.quantise import quantise
from lorica.gguf.architectures import ARCHITECTURES
from lorica.lora import load_adapter
from lorica.models import load

VOCABULARY = 300
MODELS: dict[str, Callable[..., Any]] = {
    "llama": tiny.llama,
    "ministral3": tiny.ministral3,
    "smollm3": lambda **fields: tiny.smollm3(**fields | {"num_hidden_layers": 5, "no_rope_layers": None}),
    "granite": tiny.granite,
    "qwen2": tiny.qwen2,
    "qwen3": tiny.qwen3,
    "seed_oss": tiny.seed_oss,
    "olmo2": tiny.olmo2,
    "olmo3": tiny.olmo3,
    "exaone4": tiny.exaone4,
    "glm4": tiny.glm4,
    "ernie4_5": tiny.ernie4_5,
    "cohere": tiny.cohere,
    "cohere2": tiny.cohere2,
    "starcoder2": tiny.starcoder2,
    "gemma": tiny.gemma,
    "gemma2": tiny.gemma2,
    "gemma3_text": tiny.gemma3,
    "phi3": lambda **fields: tiny.phi3(**fields | {"original_max_position_embeddings": 64}),
}


def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_logits_with_and_without_an_adapter(name: str, tmp_path: Path) -> None:
    base, ids = made.write_model(tmp_path / "base", MODELS[name](vocab_size=VOCABULARY)), tokens()
    assert quantise(base, "F32", tmp_path / "base.gguf").notes == []
    again = load(tmp_path / "base.gguf", dtype="fp32")
    assert again.model.config.model_type == name
    close(tiny.logits(again.model, ids), made.by_transformers(base, ids))
    fields = {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"o_proj": 5}}
    adapter, live = made.write_adapter(tmp_path / "adapter", base, **fields)
    export(adapter, "gguf-adapter", out=tmp_path / "out", proof=False)
    wanted = tiny.logits(live.model, ids)
    for target in (again, load(base, dtype="fp32")):
        load_adapter(target, tmp_path / "out" / "adapter.gguf").eval()
        close(tiny.logits(target.model, ids), wanted)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=5e-5)


def test_every_family_is_tested() -> None:
    assert {found.model_type for found in ARCHITECTURES} - {"mistral"} == set(MODELS)
