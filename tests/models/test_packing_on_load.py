"""A 16-bit base packed as it is read: the same as packing every matrix of the loaded model."""

import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, OlmoConfig, OlmoForCausalLM

import tiny_models as tiny
from bases import pack_by_bitsandbytes
from lorica.lora import attach, load_adapter
from lorica.lora.targets import tied_pair
from lorica.models import load
from lorica.models.directory import read_config
from lorica.models.locate import weight_files
from lorica.models.packing import choose_types, read_packed
from lorica.models.skeleton import empty_model
from lorica.models.stored import StoredTensor
from lorica.quant import PackedLinear, codec

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.word_tokenizer().save_pretrained(folder)
    return folder


def packed_by_hand(model: Any, types: dict[str, str]) -> Any:
    for name, type in types.items():
        weight = model.get_parameter(name)
        weight.data = codec(type).unpack(codec(type).pack(weight.data))
    return model


@pytest.mark.parametrize("weights", ["nf4", "q8_0", "q4_0", "q4_k_m", "iq4_nl"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny.llama(**SIZES),
        lambda: tiny.llama(**SIZES, tie_word_embeddings=True, attention_bias=True),
        lambda: tiny.gemma2(**SIZES | {"head_dim": 16}),
        lambda: tiny.phi3(**SIZES),
        lambda: tiny.made(OlmoForCausalLM, OlmoConfig(**tiny.COMMON | SIZES)),  # has no GGUF form here
    ],
    ids=["llama", "tied llama", "gemma2", "phi3", "olmo"],
)
def test_the_same_as_packing_the_loaded_model(tmp_path: Path, weights: str, make: Any) -> None:
    model = make()
    base = load(saved(model, tmp_path), device="cpu", dtype="fp32", weights=weights)
    _, types = choose_types(empty_model(model.config, torch.float32), weights)
    expected = tiny.logits(packed_by_hand(model, types), tiny.tokens())
    assert torch.allclose(tiny.logits(base.model, tiny.tokens()), expected, atol=1e-5)
    assert base.hashes["weights"] == weights


@pytest.mark.parametrize("held", ["another head", "an equal head", "the head alone"])
def test_a_tied_config_beside_files_that_hold_the_head(tmp_path: Path, held: str) -> None:
    """As transformers: two different weights are two, whatever the config says, and one may go by either name."""
    folder = saved(tiny.llama(**SIZES, tie_word_embeddings=True), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"] * (0.5 if held == "another head" else 1.0)
    if held == "the head alone":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    base, theirs = load(folder, device="cpu", weights="nf4"), AutoModelForCausalLM.from_pretrained(folder)
    packed = {name: part for name, part in base.model.named_modules() if isinstance(part, PackedLinear)}
    types = {f"{name}.weight": part.matrix.codec.name for name, part in packed.items()}
    assert len(types) == 14 and not any("not used" in note for note in base.notes)
    expected = tiny.logits(packed_by_hand(theirs, types).eval(), tiny.tokens())
    assert torch.allclose(tiny.logits(base.model, tiny.tokens()), expected, atol=1e-5)
    assert (tied_pair(base.model) is None) == (held == "another head")


def test_it_generates_as_the_folder_says(tmp_path: Path) -> None:
    folder = saved(tiny.llama(**SIZES), tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9], "temperature": 0.3}))
    base, packed = (load(folder, device="cpu", weights=weights) for weights in ("as-is", "q8_0"))
    assert packed.stop_ids == base.stop_ids == {2, 7, 9}
    assert packed.model.generation_config.to_dict() == base.model.generation_config.to_dict()


def shapes(**fields: Any) -> Any:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8}
    return empty_model(tiny.llama(**sizes | fields).config, torch.float32)


def test_llama_cpps_mixture() -> None:
    """The types that llama-quantize gave a Llama of eight layers as Q4_K_M."""
    _, types = choose_types(shapes(), "q4_k_m")
    better = [0, 3, 6, 7]  # the first and last eighth, and every third between
    for layer in range(8):
        expected = "Q6_K" if layer in better else "Q4_K"
        assert types[f"model.layers.{layer}.self_attn.v_proj.weight"] == expected
        assert types[f"model.layers.{layer}.mlp.down_proj.weight"] == expected
        assert types[f"model.layers.{layer}.self_attn.q_proj.weight"] == "Q4_K"
    assert types["lm_head.weight"] == "Q6_K" and types["model.embed_tokens.weight"] == "Q4_K"


def test_nf4_leaves_embeddings_and_head_alone() -> None:
    _, types = choose_types(shapes(), "nf4")
    assert len(types) == 8 * 7 and set(types.values()) == {"NF4"}


def test_the_usual_names_tell_values_and_down_projections() -> None:
    config = OlmoConfig(**tiny.COMMON | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8})
    _, types = choose_types(empty_model(config, torch.float32), "q4_k_m")
    assert types["model.layers.0.self_attn.v_proj.weight"] == types["model.layers.7.mlp.down_proj.weight"] == "Q6_K"
    assert types["model.layers.1.self_attn.v_proj.weight"] == types["model.layers.0.self_attn.q_proj.weight"] == "Q4_K"


def test_tensors_under_other_names_are_read_whole_and_told(tmp_path: Path) -> None:
    notes = load(saved(tiny.mixtral(**SIZES), tmp_path), device="cpu", weights="q8_0").notes
    assert any(re.search(r"read whole before packing: .* \d\d% of its matrices stay dense", note) for note in notes)


@pytest.mark.parametrize("make", [tiny.mixtral, tiny.llama])
def test_rotations_stay_exact_in_16_bits(tmp_path: Path, make: Any) -> None:
    """What transformers keeps in fp32 beside weights of 16 bits: the frequencies that positions are multiplied by."""
    folder = saved(make(**SIZES), tmp_path)
    base, packed = (load(folder, device="cpu", dtype="bf16", weights=weights).model for weights in ("as-is", "q8_0"))
    wanted, found = dict(base.named_buffers()), dict(packed.named_buffers())
    assert wanted and all(torch.equal(found[name], buffer) for name, buffer in wanted.items())
    assert all(found[name].dtype == buffer.dtype for name, buffer in wanted.items())
    assert {parameter.dtype for parameter in packed.parameters()} == {torch.bfloat16}


def test_rows_that_do_not_divide_are_told(tmp_path: Path) -> None:
    base = load(saved(tiny.llama(**SIZES), tmp_path), device="cpu", weights="q4_k_m")
    assert any("have rows that Q4_K cannot pack and are Q5_0, as llama.cpp would do" in note for note in base.notes)


def test_one_tensor_is_dense_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the values that are dense at once, from when a tensor is read to when it is packed."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    read = StoredTensor.read

    def watched(stored: StoredTensor) -> torch.Tensor:
        nonlocal most
        tensor = read(stored)
        if tensor.ndim == 2 and "embed" not in stored.name:
            alive.append(weakref.ref(tensor))
            most = max(most, sum(reference() is not None for reference in alive))
        return tensor

    monkeypatch.setattr(StoredTensor, "read", watched)
    folder = saved(tiny.llama(**SIZES), tmp_path)
    read_packed(folder, weight_files(folder), read_config(folder), torch.float32, "q8_0")
    assert len(alive) == 15 and most == 1


def test_an_adapter_is_told_how_its_base_was_packed(tmp_path: Path) -> None:
    folder = saved(tiny.llama(**SIZES), tmp_path / "base")
    base = load(folder, device="cpu", weights="q8_0")
    attach(base, r=2).save(tmp_path / "adapter")
    assert load_adapter(load(folder, device="cpu", weights="q8_0"), tmp_path / "adapter").notes == []
    [note] = load_adapter(load(folder, device="cpu"), tmp_path / "adapter").notes
    assert "trained with model.weights q8_0; this base is as-is" in note


@pytest.mark.parametrize("double", [False, True])
def test_a_checkpoint_of_bitsandbytes_is_read_as_it_is_packed(tmp_path: Path, double: bool) -> None:
    model = tiny.llama(**SIZES | {"intermediate_size": 128})
    base = load(pack_by_bitsandbytes(saved(model, tmp_path), model, double), device="cpu", dtype="fp32")
    assert torch.allclose(tiny.logits(base.model, tiny.tokens()), tiny.logits(model, tiny.tokens()), atol=1e-5)
    assert base.notes == []


def damaged(folder: Path, **changes: Any) -> Path:
    tensors = load_file(folder / "model.safetensors") | changes.pop("tensors", {})
    for name in changes.pop("drop", []):
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


UP = "model.layers.1.mlp.up_proj.weight"
BAD = {
    "missing": ({"drop": [UP]}, r"lacks 1 tensors .*model.layers.1.mlp.up_proj.weight"),
    "wrong shape": ({"tensors": {UP: torch.ones(3, 3)}}, r"up_proj.weight is \(3, 3\)"),
    "NaN": ({"tensors": {UP: torch.full((96, 64), float("nan"))}}, "up_proj.weight holds NaN"),
}


@pytest.mark.parametrize(("changes", "told"), BAD.values(), ids=BAD)
def test_one_clear_paragraph(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    folder = damaged(saved(tiny.llama(**SIZES), tmp_path), **dict(changes))
    with pytest.raises(ValueError, match=told) as caught:
        load(folder, device="cpu", weights="q8_0")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_gguf_file_is_not_packed_again(tmp_path: Path) -> None:
    from gguf_files import convert

    with pytest.raises(ValueError, match="is a GGUF file, which is used as it is packed"):
        load(convert(tiny.llama(), tmp_path / "a.gguf"), weights="q8_0")
