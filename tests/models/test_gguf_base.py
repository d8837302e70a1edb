"""Bases from GGUF files: the model that was converted, computed from the file."""

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

import tiny_models as tiny
from gguf_files import convert
from lorica.gguf.read import read
from lorica.gguf.rope import llama3_factors
from lorica.gguf.split import open_model
from lorica.lora import attach, load_adapter
from lorica.models import load
from lorica.quant import codec

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 24}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
UNSCALED = {"residual_multiplier": 1.0, "embedding_multiplier": 1.0, "logits_scaling": 1.0}
UNSCALED |= {"attention_multiplier": 6**-0.5}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.0, 2.0, 4.0],
    "original_max_position_embeddings": 64,
}
Made = tuple[Callable[[], Any], dict[str, Any]]
MODELS: dict[str, Made] = {
    "llama": (tiny.llama, {}),
    "llama, tied": (tiny.tied_llama, {}),
    "llama, biases": (lambda: tiny.llama(attention_bias=True, mlp_bias=True), {}),
    "llama, wider heads": (lambda: tiny.llama(head_dim=10), {}),
    "llama, linear rope": (
        lambda: tiny.llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}),
        {"rope__scaling__type": "linear", "rope__scaling__factor": 2.0, "rope__freq_base": 500.0},
    ),
    "llama, yarn": (
        lambda: tiny.llama(**WIDE, rope_parameters=YARN),
        {
            "rope__scaling__type": "yarn",
            "rope__scaling__factor": 4.0,
            "rope__scaling__original_context_length": 16,
            "rope__freq_base": 10000.0,
        },
    ),
    "qwen2": (tiny.qwen2, {}),
    "qwen3": (tiny.qwen3, {}),
    "gemma": (tiny.gemma, {}),
    "gemma2": (
        lambda: tiny.gemma2(sliding_window=4),
        {"attention__sliding_window": 4, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": (
        lambda: tiny.gemma3(num_hidden_layers=7),
        {"attention__sliding_window": 8, "rope__freq_base": 1e6},
    ),
    "gemma3, scaled": (
        lambda: tiny.gemma3(
            num_hidden_layers=7,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        ),
        {
            "attention__sliding_window": 8,
            "rope__freq_base": 1e5,
            "rope__freq_base_swa": 500.0,
            "rope__scaling__type": "linear",
            "rope__scaling__factor": 8.0,
        },
    ),
    "mistral3": (lambda: tiny.mistral(sliding_window=None), {"arch": gguf.MODEL_ARCH.MISTRAL3}),
    "ministral3": (
        tiny.ministral3,
        {
            "rope__scaling__type": "yarn",
            "rope__scaling__factor": 4.0,
            "rope__scaling__original_context_length": 4,
            "rope__scaling__yarn_beta_fast": 4.0,
            "rope__scaling__yarn_log_multiplier": 1.0,
            "attention__temperature_scale": 0.25,
        },
    ),
    "granite": (
        tiny.granite,
        {"logit_scale": 2.0, "residual_scale": 0.3, "embedding_scale": 3.0, "attention__scale": 0.2},
    ),
    "granite, nothing scaled": (lambda: tiny.granite(**UNSCALED), {"logit_scale": 1.0}),
    "smollm3": (
        lambda: tiny.smollm3(num_hidden_layers=5, no_rope_layers=None),
        {"rope__freq_base": 2e6},
    ),
    "seed_oss": (tiny.seed_oss, {}),
    "olmo2": (tiny.olmo2, {}),
    "olmo3": (tiny.olmo3, {"attention__sliding_window": 5, "rope__freq_base": 5e5}),
    "olmo3, yarn": (
        lambda: tiny.olmo3(
            rope_parameters={
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        {
            "attention__sliding_window": 5,
            "rope__scaling__type": "yarn",
            "rope__scaling__factor": 4.0,
            "rope__scaling__original_context_length": 16,
        },
    ),
    "exaone4": (tiny.exaone4, {}),
    "exaone4, with windows": (
        lambda: tiny.exaone4(num_hidden_layers=64, sliding_window=5, layer_types=None, initializer_range=0.3),
        {"attention__sliding_window": 5},
    ),
    "glm4": (tiny.glm4, {"rope__dimension_count": 4}),
    "ernie4_5": (tiny.ernie4_5, {"rope__freq_base": 5e5}),
    "command-r": (tiny.cohere, {"logit_scale": 0.3, "rope__freq_base": 5e5}),
    "cohere2": (tiny.cohere2, {"logit_scale": 0.3, "attention__sliding_window": 5}),
    "starcoder2": (tiny.starcoder2, {}),
    "phi3": (tiny.phi3, {"rope__dimension_count": 6}),
    "phi3, partly rotated": (
        lambda: tiny.phi3(**WIDE, partial_rotary_factor=0.75),
        {"rope__dimension_count": 24},
    ),
}


@pytest.mark.parametrize(("make", "values"), MODELS.values(), ids=MODELS)
def test_the_converted_model_gives_the_same_logits(tmp_path: Path, make: Callable[[], Any], values: Any) -> None:
    model = make()
    base = load(convert(model, tmp_path / "a.gguf", **values), device="cpu", dtype="fp32")
    ids = tiny.tokens(2, 40)
    assert torch.allclose(tiny.logits(base.model, ids), tiny.logits(model, ids), rtol=1e-4, atol=2e-5)
    assert base.model.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert base.notes == [] and base.longest == 64 and base.hidden_size == model.config.hidden_size


def test_llama_3s_scaling_is_recovered_from_its_factors(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500.0} | LLAMA3
    model = tiny.llama(**WIDE, rope_parameters=rope)
    frequencies = model.model.rotary_emb.inv_freq
    plain = 500.0 ** -(torch.arange(16) / 16)
    extra = {"rope_freqs.weight": plain / frequencies}  # by transformers' own rule
    base = load(convert(model, tmp_path / "a.gguf", extra=extra, rope__freq_base=500.0), device="cpu", dtype="fp32")
    found = base.model.config.rope_parameters
    assert found["rope_type"] == "llama3" and base.notes == []
    again = llama3_factors(found, 500.0, 16)
    assert torch.allclose(again.float(), extra["rope_freqs.weight"], rtol=1e-5)
    assert torch.allclose(tiny.logits(base.model, tiny.tokens()), tiny.logits(model, tiny.tokens()), atol=2e-5)


def test_other_factors_are_longropes(tmp_path: Path) -> None:
    factors = torch.tensor([1.0, 3.0, 2.0])
    model = tiny.llama(**{"hidden_size": 24})
    base = load(convert(model, tmp_path / "a.gguf", extra={"rope_freqs.weight": factors}), device="cpu", dtype="fp32")
    model.model.rotary_emb.inv_freq /= factors
    assert torch.allclose(tiny.logits(base.model, tiny.tokens()), tiny.logits(model, tiny.tokens()), atol=2e-5)


def test_phi_3_with_long_factors(tmp_path: Path) -> None:
    model = tiny.phi3(rope_parameters=LONG, original_max_position_embeddings=64, max_position_embeddings=128)
    extra = {f"rope_factors_{kind}.weight": torch.tensor(LONG[f"{kind}_factor"]) for kind in ("long", "short")}
    attention = math.sqrt(1 + math.log(2) / math.log(64))
    values = {
        "rope__dimension_count": 6,
        "rope__scaling__original_context_length": 64,
        "rope__scaling__attn_factor": attention,
    }
    base = load(convert(model, tmp_path / "a.gguf", extra=extra, **values), device="cpu", dtype="fp32")
    for length in (40, 100):
        ids = tiny.tokens(1, length)
        assert torch.allclose(tiny.logits(base.model, ids), tiny.logits(model, ids), atol=2e-5)
    assert "LongRoPE" in base.notes[0]


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen2, tiny.qwen3])
def test_joined_q_k_v_are_taken_apart(tmp_path: Path, make: Callable[[], Any]) -> None:
    model = make(hidden_size=64, head_dim=16)
    joined = load(convert(model, tmp_path / "a.gguf", type="Q8_0", fuse=True), device="cpu", dtype="fp32")
    apart = load(convert(model, tmp_path / "b.gguf", type="Q8_0"), device="cpu", dtype="fp32")
    assert "blk.0.attn_qkv.weight" in read(tmp_path / "a.gguf").tensors
    assert torch.equal(tiny.logits(joined.model, tiny.tokens()), tiny.logits(apart.model, tiny.tokens()))


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "BF16", "F16"])
def test_packed_rows_are_reordered_without_loss(tmp_path: Path, type: str) -> None:
    """Packing and then reordering rows is reordering and then packing: the model of the dequantised weights."""
    model = tiny.llama(**WIDE, intermediate_size=96)
    base = load(convert(model, tmp_path / "a.gguf", type=type), device="cpu", dtype="fp32")
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight.data = codec(type).unpack(codec(type).pack(module.weight.data))
    assert torch.allclose(tiny.logits(base.model, tiny.tokens()), tiny.logits(model, tiny.tokens()), atol=2e-5)


def split(path: Path, folder: Path, parts: int) -> Path:
    """Cut a file into several, as llama-gguf-split does."""
    reader = gguf.GGUFReader(path)
    for number in range(parts):
        writer = gguf.GGUFWriter(folder / f"m-{number + 1:05d}-of-{parts:05d}.gguf", "llama")
        for key, field in reader.fields.items() if number == 0 else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, field.contents(), field.types[0], ([*field.types, None])[1])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::parts]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            write()
        writer.close()
    return folder / f"m-00002-of-{parts:05d}.gguf"


def test_a_split_model(tmp_path: Path) -> None:
    whole = convert(tiny.llama(), tmp_path / "whole.gguf")
    (tmp_path / "split").mkdir()
    part = split(whole, tmp_path / "split", 3)
    base, other = load(part, device="cpu"), load(whole, device="cpu")
    assert base.hashes == other.hashes
    assert load(tmp_path / "split", device="cpu").hashes == base.hashes
    part.unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 files of m \(m-00002-of-00003"):
        load(tmp_path / "split", device="cpu")


def test_a_folder_with_one_file_or_several(tmp_path: Path) -> None:
    path = convert(tiny.llama(), tmp_path / "a.gguf")
    assert load(tmp_path, device="cpu").hashes == load(path, device="cpu").hashes
    shutil.copy(path, tmp_path / "b.gguf")
    with pytest.raises(ValueError, match=r"holds 2 GGUF models \(a.gguf, b.gguf\); give the path of one"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"c.gguf does not exist \(.* holds a.gguf, b.gguf\)"):
        load(tmp_path / "c.gguf")
    with pytest.raises(ValueError, match="leave it out"):
        load(path, revision="main")
    path.rename(tmp_path / "without-ending")
    assert load(tmp_path / "without-ending", device="cpu").hidden_size == 24


def test_what_ends_generation(tmp_path: Path) -> None:
    base = load(convert(tiny.llama(), tmp_path / "a.gguf"), device="cpu")
    assert base.stop_ids == {2} and base.model.generation_config.bos_token_id == 1
    assert base.tokenizer("sane", add_special_tokens=True)["input_ids"][0] == 1


@pytest.mark.parametrize("none", [-1, (1 << 32) - 1])
def test_a_special_token_that_the_file_says_it_has_not(tmp_path: Path, none: int) -> None:
    path = convert(tiny.llama(), tmp_path / "a.gguf")
    reader, other = gguf.GGUFReader(path), tmp_path / "b.gguf"
    writer = gguf.GGUFWriter(other, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], ([*field.types, None])[1])
    (writer.add_int32 if none < 0 else writer.add_uint32)("tokenizer.ggml.padding_token_id", none)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    base = load(other, device="cpu")
    assert base.tokenizer.pad_token_id is None and base.model.config.pad_token_id is None
    assert base.model.generation_config.pad_token_id is None
    assert torch.equal(
        tiny.logits(base.model, tiny.tokens()), tiny.logits(load(path, device="cpu").model, tiny.tokens())
    )


def test_an_adapter_knows_its_file(tmp_path: Path) -> None:
    path = convert(tiny.llama(**WIDE), tmp_path / "a.gguf", type="Q8_0")
    base = load(path, device="cpu", dtype="fp32")
    adapter = tiny.randomise(attach(base, r=3, lora_alpha=5))
    expected = tiny.logits(base.model, tiny.tokens())
    adapter.save(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        path
    )
    again = load(path, device="cpu", dtype="fp32")
    load_adapter(again, tmp_path / "adapter").eval()
    assert torch.equal(tiny.logits(again.model, tiny.tokens()), expected)
    other = load(convert(tiny.llama(**WIDE), tmp_path / "b.gguf", type="Q4_0"), device="cpu")
    with pytest.raises(ValueError, match="trained on a base whose weights hash to"):
        load_adapter(other, tmp_path / "adapter")


def rewritten(source: Path, path: Path, drop: tuple[str, ...] = (), **values: Any) -> Path:
    """A copy with some metadata or tensors left out, or other whole numbers in it."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, values.pop("arch", "llama"))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in drop:
            continue
        content = values.pop(key.replace(".", "__"), field.contents())
        writer.add_key_value(key, content, field.types[0], ([*field.types, None])[1])
    for key, value in values.items():
        writer.add_uint32(key.replace("__", "."), value)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"arch": "mamba"}, "architecture mamba; Lorica reads GGUF files of llama, mistral3"),
    "experts": ({"llama__expert_count": 8}, "mixture of experts"),
    "predicting layers": ({"llama__nextn_predict_layers": 1}, "layers that predict several tokens"),
    "missing tensor": ({"drop": ("blk.1.ffn_up.weight",)}, "no blk.1.ffn_up.weight for model.layers.1.mlp.up_proj"),
    "missing embeddings": ({"drop": ("token_embd.weight",)}, "no matrix token_embd.weight"),
    "missing layer count": ({"drop": ("llama.block_count",)}, "has no llama.block_count"),
    "more layers": ({"llama__block_count": 3}, "says that it has 3 layers"),
    "too many layers": ({"llama__block_count": 1 << 30}, "no size of a model"),
    "no layers": ({"llama__block_count": 0}, "no size of a model"),
    "another width": ({"llama__embedding_length": 28}, r"\(61, 24\).*\(61, 28\)"),
    "huge width": ({"llama__feed_forward_length": 1 << 30}, r"ffn_gate.weight is \(40, 24\)"),
    "heads that do not divide": ({"llama__attention__head_count": 5}, r"heads"),
    "odd heads": ({"llama__attention__key_length": 7, "llama__attention__value_length": 7}, "heads of 7"),
    "no tokenizer": ({"drop": ("tokenizer.ggml.tokens",)}, "no tokenizer in its metadata.*model.tokenizer"),
    "scores cut short": ({"tokenizer__ggml__scores": [0.0]}, "61 tokens, 1 scores"),
    "types cut short": ({"tokenizer__ggml__token_type": [1]}, "as many token types as tokens"),
    "equal tokens": ({"tokenizer__ggml__tokens": ["a"] * 61}, "different tokens"),
    "end beyond the vocabulary": ({"tokenizer__ggml__eos_token_id": 999}, "eos_token_id is 999"),
    "another kind of tokenizer": ({"tokenizer__ggml__model": "bert"}, "tokenizer of the kind bert"),
}


@pytest.mark.parametrize(("changes", "told"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_gives_one_clear_paragraph(tmp_path: Path, changes: Any, told: str) -> None:
    path = rewritten(convert(tiny.llama(), tmp_path / "good.gguf"), tmp_path / "bad.gguf", **dict(changes))
    with pytest.raises(ValueError, match=told) as caught:
        load(path, device="cpu")
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 700


def test_a_norm_that_is_not_finite(tmp_path: Path) -> None:
    model = tiny.llama()
    model.model.norm.weight.data[3] = math.nan
    with pytest.raises(ValueError, match=r"output_norm\.weight holds NaN"):
        load(convert(model, tmp_path / "a.gguf"), device="cpu")


def test_a_bias_that_llama_cpp_adds_and_the_model_lacks(tmp_path: Path) -> None:
    extra = {"blk.1.attn_output.bias": torch.ones(24)}
    with pytest.raises(ValueError, match=r"has blk\.1\.attn_output\.bias, which llama\.cpp adds"):
        load(convert(tiny.llama(), tmp_path / "a.gguf", extra=extra), device="cpu")


def test_a_type_that_is_not_read_is_named_with_its_tensor(tmp_path: Path) -> None:
    path = convert(tiny.llama(hidden_size=256, num_attention_heads=8), tmp_path / "a.gguf", type="Q4_K")
    data, old, new = path.read_bytes(), struct.pack("<I", 12), struct.pack("<I", 16)  # Q4_K and IQ2_XXS
    at = data.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 16
    assert data[at : at + 4] == old
    path.write_bytes(data[:at] + new + data[at + 4 :])
    with pytest.raises(
        ValueError, match=r"blk\.0\.ffn_up\.weight is of the type IQ2_XXS, and .* Q4_K .*llama-quantize"
    ):
        load(path, device="cpu")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, "rope_freqs.weight and rope scaling by 4"),
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": 2.0}, r"rope_freqs.weight and .* by 2 \(yarn\)"),
        ({"rope__scaling__attn_factor": 0.5}, "multiplies attention by 0.5 without YaRN"),
    ],
)
def test_scalings_of_llama_cpp_that_transformers_lacks(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    factors = {"rope_freqs.weight": torch.tensor([1.0, 2.0, 4.0])}
    with pytest.raises(ValueError, match=told):
        load(convert(tiny.llama(), tmp_path / "a.gguf", extra=factors, **values), device="cpu")


def test_unused_tensors_are_listed(tmp_path: Path) -> None:
    extra = {"blk.0.attn_sinks.weight": torch.ones(4)}
    [note] = load(convert(tiny.llama(), tmp_path / "a.gguf", extra=extra), device="cpu").notes
    assert "1 tensors" in note and "blk.0.attn_sinks.weight" in note


def test_a_tokenizer_from_elsewhere(tmp_path: Path, pristine: Path) -> None:
    source = convert(tiny.llama(), tmp_path / "good.gguf")
    path = rewritten(source, tmp_path / "a.gguf", drop=("tokenizer.ggml.tokens",))
    base = load(path, device="cpu", tokenizer=str(pristine))
    assert base.tokenizer.convert_ids_to_tokens([4]) == ["word0"] and base.stop_ids == {2}


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    file = open_model(convert(tiny.llama(), tmp_path / "a.gguf"))
    name = "blk.0.ffn_up.weight"
    assert file.data(name).data_ptr() == file.data(name).data_ptr() == file.rows(name).data_ptr()


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        (torch.ones(4), r"rope_freqs.weight is \(4,\), and heads have 3 pairs"),
        (torch.tensor([1.0, 0.0, 1.0]), "not above zero"),
        (torch.tensor([1.0, math.nan, 1.0]), "not above zero"),
    ],
)
def test_rope_factors_that_cannot_be(tmp_path: Path, factors: torch.Tensor, told: str) -> None:
    path = convert(tiny.llama(), tmp_path / "a.gguf", extra={"rope_freqs.weight": factors})
    with pytest.raises(ValueError, match=told):
        load(path, device="cpu")
