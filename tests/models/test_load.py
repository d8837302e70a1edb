"""Loading a base: what a good directory gives, and one clear paragraph for every bad one."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from lorica.models import load
from lorica.models.fingerprint import hash_weight_files

WEIGHTS = "model.safetensors"


def test_a_good_directory(folder: Path) -> None:
    base = load(folder, device="cpu", dtype="fp32")
    assert base.name == str(folder) and base.notes == [] and base.dtype_reason == "as set"
    assert sorted(base.hashes) == ["base", "tokenizer"] and all(len(h) == 64 for h in base.hashes.values())
    assert not base.model.training
    assert (base.longest, base.hidden_size, base.stop_ids) == (64, 24, {2})
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(tiny.logits(base.model, tiny.tokens()), tiny.logits(theirs, tiny.tokens()))
    assert load(folder, device="cpu", dtype="bf16").dtype == torch.bfloat16


def test_a_template_is_hashed(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert "template" in load(folder, device="cpu").hashes


def test_stop_ids_come_from_the_generation_config_and_the_tokenizer(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert load(folder, device="cpu").stop_ids == {2, 7, 9}


def test_a_local_path_never_touches_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("opened a socket")

    for place in ("socket.socket.connect", "socket.create_connection", "socket.getaddrinfo"):
        monkeypatch.setattr(place, refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert load(folder, device="cpu").hidden_size == 24
    with pytest.raises(ValueError, match="does not exist"):
        load(f"{folder}x")


def save_again(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder: Path) -> dict[str, str]:
    """Split the weights over three files with an index, as a large model has them."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    where = {key: names[i % 3] for i, key in enumerate(sorted(tensors, reverse=True))}
    for name in names:
        save_file({key: tensors[key] for key in tensors if where[key] == name}, folder / name, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return where


def test_shards_are_the_same_base(folder: Path, pristine: Path) -> None:
    shard(folder)
    assert load(folder, device="cpu").hashes == load(pristine, device="cpu").hashes


def test_of_one_file_and_shards_that_were_left_behind_the_one_file_is_the_base(folder: Path, pristine: Path) -> None:
    """As transformers, which loads it, so that what is hashed and exported is what was trained on."""
    shard(folder)
    whole = load_file(pristine / WEIGHTS)
    save_file({name: tensor + 0.5 for name, tensor in whole.items()}, folder / WEIGHTS, {"format": "pt"})
    base, other = load(folder, device="cpu"), load(pristine, device="cpu")
    assert torch.equal(base.model.model.norm.weight, other.model.model.norm.weight + 0.5)
    assert base.hashes["base"] == hash_weight_files([folder / WEIGHTS]) != other.hashes["base"]


def test_a_precision_and_a_device_by_another_name(folder: Path) -> None:
    with pytest.raises(ValueError, match='precision is "float32"; expected auto, bf16 or fp32'):
        load(folder, dtype="float32")
    with pytest.raises(ValueError, match=r"cuda:7, which torch .* does not see"):
        load(folder, device="cuda:7")


def write_index(folder: Path, content: str) -> None:
    drop(folder, WEIGHTS)
    (folder / "model.safetensors.index.json").write_text(content)


def drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def missing_tensor(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 3)


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = float("nan")


def lacks_a_shard(folder: Path) -> None:
    drop(folder, sorted(shard(folder).values())[1])


def lacks_a_tensor_of_a_shard(folder: Path) -> None:
    where = shard(folder)
    path = folder / where["model.layers.1.mlp.up_proj.weight"]
    tensors = load_file(path)
    missing_tensor(tensors)
    save_file(tensors, path, {"format": "pt"})


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    drop(folder, WEIGHTS)


def truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def needs_code(folder: Path) -> None:
    edit_config(folder, model_type="mystery", auto_map={"AutoModelForCausalLM": "modeling_mystery.Mystery"})
    (folder / "modeling_mystery.py").write_text("raise SystemExit('ran code of the model')")


def adapter_only(folder: Path) -> None:
    drop(folder, WEIGHTS)
    (folder / "adapter_config.json").write_text("{}")


def no_tokenizer(folder: Path) -> None:
    drop(folder, "tokenizer.json", "tokenizer_config.json")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: drop(f, WEIGHTS), "holds no model.safetensors"),
    "an adapter": (adapter_only, "It is an adapter; give its base"),
    "pickled weights": (as_pickle, r"pytorch_model.bin, a pickle.*safe"),
    "truncated weights": (truncated, r"damaged|cannot be loaded"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "damaged"),
    "no header": (huge_header, "damaged"),
    "missing tensor": (lambda f: save_again(f, missing_tensor), r"lacks 1 tensors.*layers.1.mlp.up_proj"),
    "wrong shape": (lambda f: save_again(f, wrong_shape), "layers.1.mlp.up_proj"),
    "NaN": (lambda f: save_again(f, not_a_number), r"layers.1.mlp.up_proj.weight holds NaN"),
    "missing shard": (lacks_a_shard, r"lacks 1 of its 3 weight shards \(model-0000[123]-of-00003"),
    "shard without a tensor": (lacks_a_tensor_of_a_shard, r"lacks 1 tensors.*layers.1.mlp.up_proj"),
    "broken index": (lambda f: write_index(f, "{"), "index.json is not valid JSON"),
    "empty index": (lambda f: write_index(f, "{}"), "index.json .*weight_map"),
    "list as index": (lambda f: write_index(f, "[1]"), "index.json holds a list"),
    "no config": (lambda f: drop(f, "config.json"), "has no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text('{"model_type":'), "config.json is not valid JSON"),
    "list as config": (lambda f: (f / "config.json").write_text("[1]"), "config.json"),
    "empty config": (lambda f: (f / "config.json").write_text("{}"), "config.json"),
    "wrong type in config": (lambda f: edit_config(f, hidden_size="wide"), "config.json"),
    "unknown model type": (lambda f: edit_config(f, model_type="nonesuch"), "nonesuch"),
    "other sizes": (lambda f: edit_config(f, intermediate_size=44), r"\(24, 40\) in the files and \(24, 44\)"),
    "more layers": (lambda f: edit_config(f, num_hidden_layers=3), r"lacks 9 tensors.*layers.2"),
    "not a language model": (lambda f: edit_config(f, model_type="vit"), "vit"),
    "code of its own": (needs_code, "needs code of its own.*never runs"),
    "quantised": (
        lambda f: edit_config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantised by gptq.*model.weights packs it",
    ),
    "no tokenizer": (no_tokenizer, "no tokenizer"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "no tokenizer"),
}


@pytest.mark.parametrize(("damage", "told"), BAD.values(), ids=BAD)
def test_a_bad_directory_gives_one_clear_paragraph(folder: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=told) as caught:
        load(folder, device="cpu", dtype="fp32")
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 700
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_unused_tensor_is_listed(folder: Path) -> None:
    save_again(folder, lambda tensors: tensors.update({"model.layers.0.extra": torch.ones(2)}))
    [note] = load(folder, device="cpu").notes
    assert "1 tensors" in note and "model.layers.0.extra" in note


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere", "does not exist"),
        ("./no/where", "does not exist"),
        ("a/b/c", "does not exist"),
        ("модель/config.json", "is a file"),
        ("модель/missing.gguf", "the GGUF file .* does not exist"),
    ],
)
def test_a_path_that_is_no_directory(folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, told: str) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ValueError, match=told):
        load(path)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load(tmp_path)


def test_the_folder_above_a_model_points_to_it(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"There is a model in .*модель"):
        load(folder.parent)


def test_a_misspelt_directory_that_looks_like_a_hub_id_names_its_neighbours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import errors

    def unreachable(*_: Any, **__: Any) -> str:
        raise errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.chdir(folder.parent.parent)
    with pytest.raises(ValueError, match=r"no directory here.*модель.*no network"):
        load(f"{folder.parent.name}/модел")


def test_a_revision_of_a_directory(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.revision"):
        load(folder, revision="main")
