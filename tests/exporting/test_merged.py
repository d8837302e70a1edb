"""A merged directory is what transformers loads to compute base and adapter, in the base's own files."""

import json
from pathlib import Path
from typing import Any

import made
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models as tiny
from lorica import export, load

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "all linear": (tiny.qwen2, {"target_modules": "all-linear"}),
    "rslora and patterns": (tiny.llama, {"use_rslora": True, "rank_pattern": {"q_proj": 5}}),
    "dora": (tiny.qwen2, {"target_modules": "all-linear", "use_dora": True}),
    "dora on embedding and head": (tiny.llama, {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "tied embedding and head": (tiny.gemma3, {"target_modules": ["embed_tokens", "lm_head"]}),
    "conv1d, pissa": (tiny.gpt2, {"target_modules": "all-linear", "init_lora_weights": "pissa"}),
    "copies": (tiny.llama, {"target_modules": ["q_proj"], "modules_to_save": ["mlp", "norm", "lm_head"]}),
    "tied copies": (tiny.tied_llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "token rows": (tiny.llama, {"target_modules": ["q_proj"], "trainable_token_indices": [4, 2, 60]}),
    "token rows of both": (
        tiny.llama,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [4, 2], "lm_head": [60, 4]}},
    ),
    "token rows, tied and scaled": (tiny.gemma3, {"target_modules": ["q_proj"], "trainable_token_indices": [4, 2]}),
    "experts beside it": (tiny.qwen3_moe, {"target_modules": ["q_proj", "o_proj"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_base_and_adapter(case: str, tmp_path: Path) -> None:
    make, fields = CASES[case]
    base = made.write_model(tmp_path / "base", make())
    folder, adapter = made.write_adapter(tmp_path / "адаптер", base, **fields)
    ids = tiny.tokens()
    result = export(folder, "merged", out=tmp_path / "out", proof=False)
    found = made.by_transformers(tmp_path / "out", ids)
    adapter.model.set_attn_implementation("eager")
    torch.testing.assert_close(found, tiny.logits(adapter.model, ids), rtol=1e-5, atol=3e-5)
    assert not torch.allclose(found, made.by_transformers(base, ids), atol=1e-2)
    assert sorted(result.files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    untied = json.loads((tmp_path / "out" / "config.json").read_text()).get("tie_word_embeddings") is False
    assert bool(result.notes) == (case in ("tied embedding and head", "tied copies"))
    assert not result.notes or untied


def test_a_head_that_the_config_ties_and_the_files_do_not(tmp_path: Path) -> None:
    base = made.write_model(tmp_path / "base", tiny.llama(tie_word_embeddings=True, vocab_size=300))
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 0.5
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    folder, adapter = made.write_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "lm_head"])
    expected = tiny.logits(adapter.model, tiny.tokens())
    export(folder, "merged", out=tmp_path / "out", proof=False)
    torch.testing.assert_close(made.by_transformers(tmp_path / "out", tiny.tokens()), expected, rtol=1e-5, atol=3e-5)
    export(folder, "gguf", type="F32", out=tmp_path / "gguf", proof=False)
    found = load(tmp_path / "gguf" / "model.gguf", dtype="fp32").model
    torch.testing.assert_close(tiny.logits(found, tiny.tokens()), expected, rtol=1e-5, atol=3e-5)


def test_in_16_bits_a_sum_is_rounded_once_and_the_rest_is_copied(tmp_path: Path) -> None:
    base = made.write_model(tmp_path / "base", tiny.llama(), torch.bfloat16, shard="9KB")
    shards = sorted(base.glob("*.safetensors"))
    assert len(shards) > 2
    folder, adapter = made.write_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "down_proj"])
    export(folder, "merged", out=tmp_path / "out", proof=False)
    layers = {f"{name}.weight": layer for name, layer in adapter.layers.items()}
    for shard in shards:
        before, after = load_file(shard), load_file(tmp_path / "out" / shard.name)
        assert before.keys() == after.keys()
        for name, weight in before.items():
            expected = weight
            if name in layers:
                a, b = (matrix[0].detach().double() for matrix in (layers[name].lora_A, layers[name].lora_B))
                expected = (weight.double() + 8 / 3 * b @ a).bfloat16()
            assert after[name].dtype == torch.bfloat16
            wrong = (after[name] != expected).float().mean()
            assert wrong == 0 if name not in layers else wrong < 0.01, name  # ties between fp32 and float64 sums
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    made.by_transformers(tmp_path / "out", tiny.tokens())


def test_a_file_that_holds_a_copy_of_the_tied_head(tmp_path: Path) -> None:
    """Some checkpoints store the one weight under both of its names."""
    from safetensors.torch import save_file

    base = made.write_model(tmp_path / "base", tiny.tied_llama())
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / "model.safetensors")
    fields = {"target_modules": ["q_proj"], "trainable_token_indices": [4, 2]}
    folder, _ = made.write_adapter(tmp_path / "adapter", base, **fields)
    export(folder, "merged", out=tmp_path / "out", proof=False)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    assert not torch.equal(merged["lm_head.weight"], tensors["model.embed_tokens.weight"])
    ids = tiny.tokens()
    torch.testing.assert_close(
        made.by_transformers(tmp_path / "out", ids), made.by_peft(base, folder, ids), rtol=1e-5, atol=3e-5
    )


@pytest.mark.parametrize("half", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
@pytest.mark.parametrize("to", ["merged", "gguf"])
def test_half_of_a_tied_pair_that_peft_trained(half: str, field: str, to: str, tmp_path: Path) -> None:
    base = made.write_model(tmp_path / "base", tiny.llama(tie_word_embeddings=True, vocab_size=300))
    fields: dict[str, Any] = {"target_modules": ["q_proj"]}
    fields |= {field: ["q_proj", half] if field == "target_modules" else [half]}
    twin = tiny.peft_twin(load(base, device="cpu", dtype="fp32").model, r=3, lora_alpha=7, **fields)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    twin.save_pretrained(tmp_path / "adapter")
    options = {"type": "f32"} if to == "gguf" else {}
    result = export(tmp_path / "adapter", to, base=base, out=tmp_path / "out", proof=False, **options)
    model = load(tmp_path / "out", device="cpu", dtype="fp32").model
    ids = tiny.tokens()
    torch.testing.assert_close(tiny.logits(model, ids), tiny.logits(twin, ids), rtol=1e-5, atol=3e-5)
    assert result.ok


def test_another_precision(tmp_path: Path) -> None:
    base = made.write_model(tmp_path / "base", tiny.llama())
    folder, _ = made.write_adapter(tmp_path / "adapter", base)
    export(folder, "merged", out=tmp_path / "out", type="bf16", proof=False)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_a_change_to_fused_experts_has_nowhere_to_go(tmp_path: Path) -> None:
    base = made.write_model(tmp_path / "base", tiny.qwen3_moe())
    folder, _ = made.write_adapter(tmp_path / "adapter", base, target_modules=["q_proj"], modules_to_save=["mlp"])
    with pytest.raises(ValueError, match="makes it of several tensors"):
        export(folder, "merged", out=tmp_path / "out", proof=False)
    assert not (tmp_path / "out").exists()
