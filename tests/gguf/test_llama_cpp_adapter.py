"""Adapters in llama.cpp's format, written with the `gguf` library and read back onto a model."""

import math
import random
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

import tiny_models as tiny
from gguf_files import mutated, permuted
from lorica.gguf.read import read
from lorica.lora import load_adapter

Q, K, UP = "blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.1.ffn_up.weight"
PARAMETERS = {
    Q: "model.layers.0.self_attn.q_proj",
    K: "model.layers.1.self_attn.k_proj",
    UP: "model.layers.1.mlp.up_proj",
    "output.weight": "lm_head",
    "token_embd.weight": "model.embed_tokens",
}
SIZES = {Q: (24, 24), K: (12, 24), UP: (40, 24), "output.weight": (61, 24), "token_embd.weight": (24, 61)}


def pairs(ranks: dict[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Random (A (rank, in), B (out, rank)) in transformers' order."""
    generator = torch.Generator().manual_seed(3)
    made = {}
    for name, rank in ranks.items():
        outputs, inputs = SIZES[name]
        made[name] = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
    return made


def write(path: Path, pairs: dict[str, tuple[Tensor, Tensor]], alpha: float | None = 6.0, **changes: Any) -> Path:
    writer = gguf.GGUFWriter(path, changes.get("arch", "llama"))
    writer.add_string("general.type", changes.get("type", "adapter"))
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, (down, up) in pairs.items():
        up = permuted(up, 4) if "attn_q" in name else permuted(up, 2) if "attn_k" in name else up
        down = down.t() if name == "token_embd.weight" else down
        for ending, half in ((".lora_a", down), (".lora_b", up)):
            if name + ending not in changes.get("drop", ()):
                writer.add_tensor(name + ending, half.contiguous().numpy())
    for name, tensor in changes.get("extra", {}).items():
        writer.add_tensor(name, tensor.numpy())
    for done in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        done()
    writer.close()
    return path


def merged(model: Any, pairs: dict[str, tuple[Tensor, Tensor]], alpha: float | None) -> Any:
    """llama.cpp's sum, added into the weights: alpha over each pair's own rank."""
    for name, (down, up) in pairs.items():
        scale = alpha / down.shape[0] if alpha else 1.0
        delta = scale * (up @ down)
        module = model.get_submodule(PARAMETERS[name])
        module.weight.data += delta.t() if name == "token_embd.weight" else delta
    return model


@pytest.mark.parametrize("alpha", [6.0, 0.0, None])
def test_the_adapter_adds_what_llama_cpp_adds(tmp_path: Path, alpha: float | None) -> None:
    ranks = {Q: 3, K: 3, UP: 5, "output.weight": 1, "token_embd.weight": 3}
    parts = pairs(ranks)
    model = tiny.llama()
    adapter = load_adapter(model, write(tmp_path / "a.gguf", parts, alpha)).eval()
    expected = tiny.logits(merged(tiny.llama(), parts, alpha), tiny.tokens())
    assert torch.allclose(tiny.logits(model, tiny.tokens()), expected, rtol=1e-4, atol=1e-4)
    assert "does not say which base" in adapter.notes[-1]
    adapter.detach()
    assert torch.equal(tiny.logits(model, tiny.tokens()), tiny.logits(tiny.llama(), tiny.tokens()))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a model": ({"type": "model"}, "holds a model"),
    "another architecture": ({"arch": "qwen2"}, "for qwen2 models, and this one is a llama"),
    "unknown architecture": ({"arch": "mamba"}, "architecture mamba"),
    "half a pair": ({"drop": (f"{UP}.lora_b",)}, "without its other half"),
    "other tensors": ({"extra": {"output_norm.weight": torch.ones(24)}}, "has the tensor output_norm.weight"),
    "unknown target": (
        {"extra": {"blk.0.ssm_in.weight.lora_a": torch.ones(2, 3), "blk.0.ssm_in.weight.lora_b": torch.ones(3, 2)}},
        "adapts blk.0.ssm_in.weight, which no llama model",
    ),
    "halves that do not fit": (
        {"extra": {"output.weight.lora_a": torch.ones(2, 24), "output.weight.lora_b": torch.ones(61, 3)}},
        "do not multiply",
    ),
    "another size": (
        {"extra": {"output.weight.lora_a": torch.ones(2, 20), "output.weight.lora_b": torch.ones(61, 2)}},
        r"lm_head.lora_A.weight is \(2, 20\), expected \(2, 24\) for this model",
    ),
    "another depth": (
        {"extra": {"blk.9.ffn_up.weight.lora_a": torch.ones(2, 24), "blk.9.ffn_up.weight.lora_b": torch.ones(40, 2)}},
        r"adapts model.layers.9.mlp.up_proj and 0 more modules that LlamaForCausalLM does not have",
    ),
    "NaN": (
        {"extra": {"output.weight.lora_a": torch.full((2, 24), math.nan), "output.weight.lora_b": torch.ones(61, 2)}},
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize(("changes", "told"), BAD.values(), ids=BAD)
def test_one_clear_paragraph_and_the_model_as_it_was(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = write(tmp_path / "a.gguf", pairs({Q: 3, UP: 3}), **changes)
    model = tiny.llama()
    with pytest.raises(ValueError, match=told):
        load_adapter(model, path)
    assert torch.equal(tiny.logits(model, tiny.tokens()), tiny.logits(tiny.llama(), tiny.tokens()))


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapts no tensor"):
        load_adapter(tiny.llama(), write(tmp_path / "a.gguf", {}))


def test_mutated_files(tmp_path: Path) -> None:
    """An adapter or one ValueError, and the model as it was."""
    whole = write(tmp_path / "a.gguf", pairs({Q: 3, K: 2, UP: 3})).read_bytes()
    header = min(info.start for info in read(tmp_path / "a.gguf").tensors.values())
    model, rng, path, refused = tiny.llama(), random.Random(0), tmp_path / "mutated.gguf", 0
    modules = [type(module) for module in model.modules()]
    for _ in range(300):
        path.write_bytes(mutated(whole, header, rng))
        try:
            load_adapter(model, path).detach()
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 1200
            refused += 1
        assert [type(module) for module in model.modules()] == modules
    assert 150 < refused < 300
