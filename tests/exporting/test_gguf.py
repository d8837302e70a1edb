"""GGUF exports against files that llama.cpp wrote, and against what Lorica reads back."""

import shutil
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import torch
from gguf import GGUFReader

import tiny_models as tiny
from bases import write_base
from lorica import attach, export, load, load_adapter
from lorica.exporting.quantise import quantise
from lorica.run import Watcher

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden" / "gguf"


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def metadata(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M"])
def test_quantising_gives_llama_cpp_s_bytes(golden: Path, tmp_path: Path, kind: str) -> None:
    result = quantise(golden / "tiny-llama-f32.gguf", kind, tmp_path / "out.gguf")
    expected = golden / f"tiny-llama-{kind}.gguf"
    assert contents(tmp_path / "out.gguf") == contents(expected)
    assert metadata(tmp_path / "out.gguf") == metadata(expected)
    assert result.bytes == expected.stat().st_size
    assert all(packed.relative_error is None or packed.relative_error < 0.16 for packed in result.types.values())


def test_the_golden_adapter_is_written_as_it_was_read(golden: Path, tmp_path: Path) -> None:
    """The converter of llama.cpp wrote it: alpha 16, rows of q and k in llama.cpp's order."""
    base = load(golden / "tiny-llama-f32.gguf", dtype="fp32")
    adapter = load_adapter(base, golden / "tiny-llama-adapter.gguf").eval()
    adapter.save(tmp_path / "adapter")
    ids = torch.tensor([[int(word) for word in (golden / "tokens.txt").read_text().split()]])
    wanted = torch.from_numpy(np.load(golden / "tiny-llama-f32.adapter-logits.npy"))
    torch.testing.assert_close(tiny.logits(adapter.model, ids)[0], wanted, rtol=0, atol=2e-5)
    assert export(tmp_path / "adapter", "gguf-adapter", out=tmp_path / "out").ok
    assert contents(tmp_path / "out" / "adapter.gguf") == contents(golden / "tiny-llama-adapter.gguf")
    found, expected = (
        metadata(path) for path in (tmp_path / "out" / "adapter.gguf", golden / "tiny-llama-adapter.gguf")
    )
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert found[key] == expected[key]


def test_scales_that_differ_are_folded(golden: Path, tmp_path: Path) -> None:
    """llama.cpp adds alpha / rank * B A, with the rank of each pair."""
    fields = {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}
    base = load(golden / "tiny-llama-f32.gguf", dtype="fp32")
    adapter = tiny.randomise(attach(base, r=4, alpha=6, target_modules=LINEARS[:4], **fields))
    adapter.save(tmp_path / "adapter")
    export(tmp_path / "adapter", "gguf-adapter", out=tmp_path / "out", proof=False)
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "out" / "adapter.gguf").tensors}
    alpha = metadata(tmp_path / "out" / "adapter.gguf")["adapter.lora.alpha"]
    for stem, module in (("attn_v", "v_proj"), ("attn_output", "o_proj")):
        a, b = (tensors[f"blk.1.{stem}.weight.lora_{half}"].astype(np.float64) for half in "ab")
        layer = adapter.layers[f"model.layers.1.self_attn.{module}"]
        np.testing.assert_allclose(alpha / a.shape[0] * b @ a, layer.delta().numpy(), rtol=1e-4, atol=1e-6)
    assert tensors["blk.0.attn_q.weight.lora_a"].shape[0] == 5


def test_onto_a_packed_base_the_rest_is_copied(golden: Path, tmp_path: Path) -> None:
    source = golden / "tiny-llama-Q4_K_M.gguf"
    base = load(source, dtype="fp32")
    adapter = tiny.randomise(attach(base, r=4, alpha=6, target_modules=["k_proj", "down_proj"]), 0.02).eval()
    adapter.save(tmp_path / "adapter")
    result = export(tmp_path / "adapter", "gguf", out=tmp_path / "out")
    assert result.ok and result.proof is not None and result.proof.delta_survival > 0.95
    before, after = contents(source), contents(tmp_path / "out" / "model.gguf")
    changed = {name for name in before if ".attn_k." in name or ".ffn_down." in name}
    assert {name for name in before if before[name] != after[name]} == changed and len(changed) == 4
    assert {after[name][0] for name in changed} == {"Q8_0"}
    assert metadata(tmp_path / "out" / "model.gguf") == metadata(source)
    ids = torch.arange(3, 23)[None]
    found = tiny.logits(load(tmp_path / "out" / "model.gguf", dtype="fp32").model, ids)
    wanted = tiny.logits(adapter.model, ids)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
    assert load(tmp_path / "out", dtype="fp32").hashes["base"] != base.hashes["base"]


@pytest.mark.parametrize(("kind", "survives"), [("Q4_K_M", False), ("Q8_0", True)])
def test_a_small_delta_into_four_bits_raises_the_alarm(golden: Path, tmp_path: Path, kind: str, survives: bool) -> None:
    source = golden / "tiny-llama-Q4_K_M.gguf"
    adapter = tiny.randomise(
        attach(load(source, dtype="fp32"), r=8, alpha=8, target_modules=["up_proj", "o_proj"]), 0.006
    )
    adapter.save(tmp_path / "adapter")
    result = export(tmp_path / "adapter", "gguf", type=kind, out=tmp_path / "out")
    assert result.proof is not None and result.ok is survives
    if not survives:
        assert result.proof.delta_survival < 0.5 and "Q8_0" in result.proof.survives_as
        assert not {"Q4_K", "Q3_K"} & set(result.proof.survives_as)


def test_a_directory_with_an_awkward_shape(tmp_path: Path) -> None:
    """Rows of 96 take llama.cpp's fallback types, which is said; the rest is what transformers computes."""
    sizes = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2}
    base = write_base(tmp_path / "base", **sizes)
    folder, adapter = made.write_adapter(tmp_path / "adapter", base, use_dora=True)
    result = export(folder, "gguf", type="Q4_K_M", out=tmp_path / "out", proof=False)
    kinds = {name: kind for name, (kind, _) in contents(tmp_path / "out" / "model.gguf").items()}
    assert kinds["blk.0.attn_q.weight"] == "Q5_0" and kinds["output.weight"] == "Q8_0"
    assert any("Q5_0 instead of Q4_K" in note and "256" in note for note in result.notes)
    whole = export(folder, "gguf", type="F32", out=tmp_path / "whole")
    assert whole.ok and whole.proof is not None and whole.proof.max_logit_difference < 1e-4
    read = load(tmp_path / "whole" / "model.gguf", dtype="fp32")
    ids = tiny.tokens()
    torch.testing.assert_close(tiny.logits(read.model, ids), tiny.logits(adapter.model, ids), rtol=1e-4, atol=1e-4)
    assert (
        read.tokenizer("naïve 東京 <|user|>")["input_ids"] == load(base).tokenizer("naïve 東京 <|user|>")["input_ids"]
    )
    assert read.tokenizer.chat_template == load(base).tokenizer.chat_template


REFUSED: list[tuple[str, dict[str, Any], bool]] = [
    ("DoRA", {"use_dora": True}, False),
    ("trained whole", {"modules_to_save": ["norm"]}, False),
    ("token by token", {"trainable_token_indices": [3]}, False),
    ("the embedding or the output head", {"target_modules": ["embed_tokens", "lm_head"]}, True),
]


@pytest.mark.parametrize(("told", "fields", "tied"), REFUSED)
def test_what_adapters_of_llama_cpp_cannot_hold(tmp_path: Path, told: str, fields: dict[str, Any], tied: bool) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=tied)
    folder, _ = made.write_adapter(tmp_path / "adapter", base, **{"target_modules": ["q_proj"]} | fields)
    with pytest.raises(ValueError, match=f"{told}.*--to gguf"):
        export(folder, "gguf-adapter", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(folder, "gguf", out=tmp_path / "merged", type="F32").ok


def test_models_and_tokenizers_without_a_gguf_form(tmp_path: Path) -> None:
    for model, told in (
        (tiny.gpt2(), "type gpt2 have no GGUF form"),
        (tiny.llama(), "tokenizer of the kind WordLevel"),
    ):
        base = made.write_model(tmp_path / told[:8], model)
        folder, _ = made.write_adapter(tmp_path / f"adapter-{told[:8]}", base)
        with pytest.raises(ValueError, match=f"{told}.*--to merged"):
            export(folder, "gguf", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_quantise_refuses(golden: Path, tmp_path: Path) -> None:
    packed = golden / "tiny-llama-Q8_0.gguf"
    with pytest.raises(ValueError, match="packed already"):
        quantise(packed, "Q4_K_M", tmp_path / "out.gguf")
    quantise(packed, "Q4_K_M", tmp_path / "out.gguf", requantise=True)
    before = (tmp_path / "out.gguf").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        quantise(golden / "tiny-llama-f32.gguf", "Q4_K_M", tmp_path / "out.gguf")
    with pytest.raises(ValueError, match="Q4_K_M"):
        quantise(golden / "tiny-llama-f32.gguf", "Q7", tmp_path / "other.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == before

    class Stopping(Watcher):
        def stage(self, name: str, done: int, total: int) -> None:
            if name == "packing tensors" and done == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise(golden / "tiny-llama-f32.gguf", "Q8_0", tmp_path / "out.gguf", overwrite=True, watcher=Stopping())
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == before
    cut = shutil.copyfile(golden / "tiny-llama-f32.gguf", tmp_path / "cut.gguf")
    cut.write_bytes(cut.read_bytes()[:-5000])
    with pytest.raises(ValueError, match="cut short"):
        quantise(cut, "Q8_0", tmp_path / "another.gguf")
