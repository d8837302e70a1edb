"""An exported adapter computes the same in PEFT, and in vLLM's one-rank form."""

import json
from pathlib import Path
from typing import Any

import made
import pytest
import torch
from safetensors.torch import load_file

import tiny_models as tiny
from lorica import export

PATTERNS = {"rank_pattern": {"q_proj": 5, "down_proj": 1}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return made.write_model(tmp_path / "base", tiny.llama())


@pytest.mark.parametrize("profile", [None, "vllm"])
def test_peft_computes_the_same(base: Path, tmp_path: Path, profile: str | None) -> None:
    folder, adapter = made.write_adapter(tmp_path / "adapter", base, **PATTERNS)
    result = export(folder, "peft", out=tmp_path / "out", profile=profile)
    ids = tiny.tokens()
    found = made.by_peft(base, tmp_path / "out", ids)
    torch.testing.assert_close(found, tiny.logits(adapter.model, ids), rtol=1e-5, atol=3e-5)
    assert result.ok and result.proof is not None and result.proof.delta_survival == pytest.approx(1, abs=1e-5)


def test_vllm_s_form_has_one_rank_and_scale_one(base: Path, tmp_path: Path) -> None:
    folder, adapter = made.write_adapter(tmp_path / "adapter", base, **PATTERNS)
    result = export(folder, "peft", out=tmp_path / "out", profile="vllm", proof=False)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (5, 5, False)
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, layer in adapter.layers.items():
        a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        assert a.shape[0] == b.shape[1] == 5
        torch.testing.assert_close(b @ a, layer.delta(), rtol=1e-5, atol=1e-6)
    assert any("--max-lora-rank 8" in note for note in result.notes)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("DoRA", {"use_dora": True}),
    ("trained whole", {"modules_to_save": ["norm"]}),
    ("token by token", {"trainable_token_indices": [3]}),
    ("the embedding or the output head", {"target_modules": ["q_proj", "embed_tokens"]}),
]


@pytest.mark.parametrize(("told", "fields"), REFUSED)
def test_what_vllm_does_not_take_is_refused_with_the_alternative(
    base: Path, tmp_path: Path, told: str, fields: dict[str, Any]
) -> None:
    folder, _ = made.write_adapter(tmp_path / "adapter", base, **{"target_modules": ["q_proj"]} | fields)
    with pytest.raises(ValueError, match=f"{told}.*--to merged"):
        export(folder, "peft", out=tmp_path / "out", profile="vllm")
    assert not (tmp_path / "out").exists()
    assert export(folder, "peft", out=tmp_path / "out").ok


def test_an_adapter_with_peft_s_copy_of_the_embedding(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder, _ = made.write_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    tensors = load_file(folder / "adapter_model.safetensors")
    embedding = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    key = "base_model.model.model.embed_tokens.weight"
    save_file(tensors | {key: embedding}, folder / "adapter_model.safetensors")
    assert export(folder, "merged", out=tmp_path / "out", base=base).ok
    for to, profile in (("peft", None), ("peft", "vllm"), ("gguf-adapter", None)):
        result = export(folder, to, profile=profile, out=tmp_path / f"{to}-{profile}", base=base)
        assert result.ok and result.proof is not None and len(result.proof.weights) == 2
    save_file(tensors | {key: embedding + 1}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="not what this base has"):
        export(folder, "merged", out=tmp_path / "other", base=base, proof=False)
