"""Adapters on disk go both ways between Lorica and PEFT, with equal logits."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import tiny_models as tiny
from lorica.adapters.folder import read_adapter
from lorica.lora import attach, load_adapter
from lorica.lora.checkpoint import adapter_tensors

CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "attention": (tiny.llama, {"target_modules": ["q_proj", "v_proj"]}),
    "all linear": (tiny.llama, {"target_modules": "all-linear"}),
    "all linear, gpt2": (tiny.gpt2, {"target_modules": "all-linear"}),
    "some of a kind": (tiny.llama, {"target_modules": ["layers.1.self_attn.q_proj", "up_proj"]}),
    "regular expression": (tiny.llama, {"target_modules": r".*\.1\.mlp\..*_proj"}),
    "one layer": (tiny.llama, {"target_modules": ["k_proj"], "layers_to_transform": [0], "layers_pattern": ["layers"]}),
    "whole names beside one layer": (
        tiny.llama,
        {"target_modules": ["v_proj", "model.layers.1.mlp.up_proj"], "layers_to_transform": 0},
    ),
    "exclusion": (tiny.llama, {"target_modules": "all-linear", "exclude_modules": r".*\.0\..*"}),
    "patterns": (
        tiny.llama,
        {"target_modules": "all-linear", "rank_pattern": {"0.mlp.up_proj": 7}, "alpha_pattern": {"q_proj": 3}},
    ),
    "rslora": (tiny.qwen2, {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"o_proj": 9}}),
    "dora": (tiny.gpt2, {"target_modules": ["c_attn", "mlp.c_proj"], "use_dora": True}),
    "embedding and head": (tiny.llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "embedding, head and dora": (tiny.llama, {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "copies": (tiny.llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "token rows": (tiny.llama, {"target_modules": ["q_proj"], "trainable_token_indices": [9, 4, 33]}),
    "token rows, tied": (tiny.gemma3, {"target_modules": ["q_proj"], "trainable_token_indices": [9, 4, 33]}),
    "token rows of an untied head too": (
        tiny.llama,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [9, 4], "lm_head": [4, 33, 2]}},
    ),
    "token rows, named": (
        tiny.llama,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [9, 4]}},
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    make, fields = CASES[request.param]
    return make(), {"r": 4, "lora_alpha": 10} | fields


def assert_same(ours: Any, theirs: Any) -> None:
    ids = tiny.tokens()
    torch.testing.assert_close(tiny.logits(ours, ids), tiny.logits(theirs, ids), rtol=1e-5, atol=1e-5)


def test_peft_reads_what_lorica_saves(case: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    model, fields = case
    base = copy.deepcopy(model)
    adapter = tiny.randomise(attach(model, **fields))
    adapter.save(tmp_path)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert_same(model, theirs)
    assert_same(load_adapter(base, tmp_path).eval().model, theirs)


def test_peft_reads_an_all_linear_adapter_of_a_mixture_of_experts(tmp_path: Path) -> None:
    adapter = tiny.randomise(attach(tiny.mixtral(), r=3, alpha=7))
    adapter.save(tmp_path)
    assert_same(adapter.model, PeftModel.from_pretrained(tiny.mixtral(), tmp_path).eval())


def test_an_adapter_on_experts_is_refused(tmp_path: Path) -> None:
    tiny.peft_twin(tiny.mixtral(), r=3, target_modules="all-linear").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="target_parameters"):
        load_adapter(tiny.mixtral(), tmp_path)


def test_lorica_reads_what_peft_saves(case: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    model, fields = case
    twin = tiny.peft_twin(model, **fields, fan_in_fan_out=isinstance(model, type(tiny.gpt2())))
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    twin.save_pretrained(tmp_path)
    adapter = load_adapter(model, tmp_path).eval()
    assert_same(model, twin)
    adapter.save(tmp_path / "again")
    assert_same(load_adapter(adapter.detach(), tmp_path / "again").eval().model, twin)


@pytest.mark.parametrize("half", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
@pytest.mark.parametrize("ensure", [False, True])
def test_half_of_a_tied_pair_is_read_as_peft_reads_it(half: str, field: str, ensure: bool, tmp_path: Path) -> None:
    fields = {"target_modules": ["q_proj"]} | {field: ["q_proj", half] if field == "target_modules" else [half]}
    twin = tiny.peft_twin(tiny.tied_llama(), r=3, lora_alpha=7, ensure_weight_tying=ensure, **fields)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    twin.save_pretrained(tmp_path)
    adapter = load_adapter(tiny.tied_llama(), tmp_path)
    assert_same(adapter.model, twin)
    adapter.save(tmp_path / "again")
    assert_same(PeftModel.from_pretrained(tiny.tied_llama(), tmp_path / "again").eval(), twin)


RENAMED: dict[str, Callable[[str], str]] = {
    "the adapter's name": lambda key: key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    "an embedding's": lambda key: key.replace("embedding_A", "embedding_A.mine").replace(
        "embedding_B", "embedding_B.mine"
    ),
    "data parallel": lambda key: f"module.{key}",
    "FSDP": lambda key: key.replace("self_attn.", "_fsdp_wrapped_module._checkpoint_wrapped_module.self_attn."),
    "torch.compile": lambda key: f"_orig_mod.{key}",
    "no prefix": lambda key: key.removeprefix("base_model.model."),
}


@pytest.mark.parametrize("rename", RENAMED.values(), ids=RENAMED)
def test_the_names_of_state_dicts_are_read(rename: Callable[[str], str], tmp_path: Path) -> None:
    adapter = tiny.randomise(attach(tiny.llama(), r=3, alpha=7, target_modules=["q_proj", "embed_tokens"]))
    adapter.save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    held = load_file(path)
    save_file({rename(key): tensor for key, tensor in held.items()}, path)
    assert_same(load_adapter(tiny.llama(), tmp_path).model, adapter.model)
    save_file({rename(key): tensor for key, tensor in held.items()} | {key: held[key].clone() for key in held}, path)
    with pytest.raises(ValueError, match=r"2 tensors for base_model\.model"):
        load_adapter(tiny.llama(), tmp_path)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_are_refused_and_none_are_none(bias: str, tmp_path: Path) -> None:
    twin = tiny.peft_twin(tiny.llama(), r=3, target_modules=["q_proj"], bias=bias)
    twin.save_pretrained(tmp_path / "without")
    assert_same(load_adapter(tiny.llama(), tmp_path / "without").model, twin)
    tiny.peft_twin(tiny.qwen2(), r=3, target_modules=["q_proj"], bias=bias).save_pretrained(tmp_path / "with")
    with pytest.raises(ValueError, match=r"trained biases \(.*_proj.*bias.*merge_and_unload"):
        load_adapter(tiny.qwen2(), tmp_path / "with")
    with pytest.raises(ValueError, match=r"trained biases \(.*_proj.*bias.*merge_and_unload"):
        read_adapter(tmp_path / "with")


def test_a_folder_of_adapters_names_them(tmp_path: Path) -> None:
    for name in ("bob", "alice"):
        attach(tiny.llama(), r=2).save(tmp_path / name)
    with pytest.raises(ValueError, match="There are adapters in its folders alice, bob; give one of them"):
        load_adapter(tiny.llama(), tmp_path)


def test_on_a_bf16_base_the_two_agree_to_rounding(tmp_path: Path) -> None:
    adapter = tiny.randomise(attach(tiny.llama().to(torch.bfloat16), r=3, alpha=7)).eval()
    adapter.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny.llama().to(torch.bfloat16), tmp_path).eval()
    ours, theirs = tiny.logits(adapter.model, tiny.tokens()).float(), tiny.logits(theirs, tiny.tokens()).float()
    with adapter.disable():
        base = tiny.logits(adapter.model, tiny.tokens()).float()
    assert (ours - theirs).std() < 0.03 * (ours - base).std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_adapter_stored_in_another_precision_loads_into_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    tiny.randomise(attach(tiny.llama(), r=3, alpha=7)).save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    stored = {key: tensor.to(dtype) for key, tensor in load_file(path).items()}
    save_file(stored, path)
    adapter = load_adapter(tiny.llama(), tmp_path)
    found = adapter_tensors(adapter)
    assert all(torch.equal(found[key], tensor.float()) for key, tensor in stored.items())


def test_names_that_match_nothing_are_allowed_in_an_adapter_that_peft_wrote(tmp_path: Path) -> None:
    twin = tiny.peft_twin(tiny.llama(), r=3, lora_alpha=6, target_modules=["q_proj", "query_key_value"])
    twin.save_pretrained(tmp_path)
    assert "query_key_value" in json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    adapter = load_adapter(tiny.llama(), tmp_path)
    assert {name.rsplit(".", 1)[-1] for name in adapter.layers} == {"q_proj"}


def test_patterns_and_copies_that_match_nothing_are_allowed_in_an_adapter_that_peft_wrote(tmp_path: Path) -> None:
    fields = {"rank_pattern": {"up_proj": 5}, "exclude_modules": ["score"], "modules_to_save": ["classifier"]}
    tiny.peft_twin(tiny.llama(), r=3, lora_alpha=6, target_modules=["q_proj"], **fields).save_pretrained(tmp_path)
    adapter = load_adapter(tiny.llama(), tmp_path)
    assert {(name.rsplit(".", 1)[-1], layer.r) for name, layer in adapter.layers.items()} == {("q_proj", 3)}


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "target_modules", "layers_pattern"])
def test_a_pattern_that_is_none_is_refused(field: str, tmp_path: Path) -> None:
    tiny.peft_twin(tiny.llama(), r=3, target_modules=["q_proj"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    broken = {field: {"*q_proj": 5} if "_pattern" in field and field != "layers_pattern" else "*q_proj"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_to_transform": 1} | broken))
    with pytest.raises(ValueError, match=r'"\*q_proj", which is no valid regular expression'):
        load_adapter(tiny.llama(), tmp_path)


def test_empty_lists_are_none_given_as_in_peft(tmp_path: Path) -> None:
    twin = tiny.peft_twin(tiny.llama(), r=3, lora_alpha=7, target_modules=["q_proj"])
    twin.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    empty = {"layers_to_transform": [], "layers_pattern": "", "exclude_modules": [], "modules_to_save": []}
    path.write_text(json.dumps(json.loads(path.read_text()) | empty))
    assert_same(load_adapter(tiny.llama(), tmp_path).model, PeftModel.from_pretrained(tiny.llama(), tmp_path).eval())


def test_the_copy_of_the_embedding_that_peft_saves_must_be_this_bases(tmp_path: Path) -> None:
    model = tiny.llama()
    tiny.peft_twin(model, r=3, target_modules=["embed_tokens", "q_proj"]).save_pretrained(
        tmp_path, save_embedding_layers=True
    )
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert any(key.endswith("embed_tokens.base_layer.weight") for key in held)
    load_adapter(tiny.llama(), tmp_path)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] += 1
    with pytest.raises(ValueError, match="embed_tokens"):
        load_adapter(model, tmp_path)


def test_an_embedding_that_peft_saved_without_adapting_it_must_be_this_bases(tmp_path: Path) -> None:
    model = tiny.llama()
    tiny.peft_twin(model, r=3, target_modules=["q_proj"]).save_pretrained(tmp_path, save_embedding_layers=True)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert any(key.endswith("model.embed_tokens.weight") for key in held)
    load_adapter(tiny.llama(), tmp_path)
    with torch.no_grad():
        model.lm_head.weight[5] += 1
    with pytest.raises(ValueError, match="lm_head"):
        load_adapter(model, tmp_path)


@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
def test_a_start_that_changed_the_base_is_refused_with_the_remedy(start: str, tmp_path: Path) -> None:
    twin = tiny.peft_twin(tiny.llama(), r=3, target_modules=["q_proj"], init_lora_weights=start)
    twin.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="path_initial_model_for_weight_conversion"):
        load_adapter(tiny.llama(), tmp_path)


def test_pissa_that_peft_converted_loads(tmp_path: Path) -> None:
    twin = tiny.peft_twin(tiny.llama(), r=3, lora_alpha=5, target_modules=["q_proj"], init_lora_weights="pissa")
    twin.peft_config["default"].init_lora_weights = True  # PEFT's documented steps for the conversion
    twin.save_pretrained(tmp_path / "start")
    twin.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    expected = tiny.logits(twin, tiny.tokens())
    twin.save_pretrained(tmp_path / "final", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    adapter = load_adapter(tiny.llama(), tmp_path / "final").eval()
    torch.testing.assert_close(tiny.logits(adapter.model, tiny.tokens()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "setting",
    [
        {"lora_bias": True},
        {"use_qalora": True},
        {"layer_replication": [[0, 2]]},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        {"use_bdlora": {"nblocks": 2}},
        {"alora_invocation_tokens": [1, 2]},
        {"something_of_next_year": 3},
        {"peft_type": "LOHA"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_that_would_change_the_result_are_refused_by_name(setting: dict[str, Any], tmp_path: Path) -> None:
    attach(tiny.llama(), r=3, target_modules=["q_proj"]).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(ValueError, match=next(iter(setting))) as caught:
        load_adapter(tiny.llama(), tmp_path)
    assert str(path) in str(caught.value)
