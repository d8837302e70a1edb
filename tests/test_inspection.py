"""What `inspect` says of folders, against what is known of them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models as tiny
from lorica.inspection import inspect
from lorica.lora import attach


def test_a_model(tmp_path: Path) -> None:
    model = tiny.llama().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    found = inspect(tmp_path)
    assert found["kind"] == "model" and found["architecture"] == "LlamaForCausalLM"
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["stored_as"] == {"BF16": len(list(model.parameters()))}
    assert (found["layers"], found["hidden_size"], found["vocabulary"], found["longest"]) == (2, 24, 61, 64)
    assert found["bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert found["chat_template"] is False
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert inspect(tmp_path)["chat_template"] is True


def test_other_names_for_the_same_things(tmp_path: Path) -> None:
    tiny.gpt2().save_pretrained(tmp_path)
    found = inspect(tmp_path)
    assert (found["layers"], found["hidden_size"], found["vocabulary"], found["longest"]) == (2, 24, 61, 64)


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter(tmp_path: Path, rslora: bool) -> None:
    fields: dict[str, Any] = {"r": 4, "alpha": 10, "use_rslora": rslora, "rank_pattern": {"up_proj": 2}}
    adapter = tiny.randomise(attach(tiny.llama(), target_modules=["q_proj", "up_proj", "embed_tokens"], **fields))
    adapter.provenance = {"base": "abc"}
    adapter.save(tmp_path)
    found = inspect(tmp_path)
    assert found["kind"] == "adapter" and found["provenance"] == {"base": "abc"}
    assert found["parameters"] == adapter.trainable_parameters()
    modules = {module["module"]: module for module in found["modules"]}
    assert modules.keys() == adapter.layers.keys()
    for name, layer in adapter.layers.items():
        singular = torch.linalg.svdvals(layer.delta().double())
        share = singular / singular.sum()
        effective = math.exp(-float((share * share.clamp_min(1e-300).log()).sum()))
        assert modules[name]["effective_rank"] == pytest.approx(effective, rel=1e-3)
        assert modules[name]["norm"] == pytest.approx(float(layer.delta().norm()), rel=1e-4)
        assert (modules[name]["r"], modules[name]["scale"]) == (layer.r, layer.scale)


def test_an_untrained_adapter_has_no_rank(tmp_path: Path) -> None:
    attach(tiny.llama(), r=4).save(tmp_path)
    assert {module["effective_rank"] for module in inspect(tmp_path)["modules"]} == {0.0}


def test_a_wrong_adapter_is_said(tmp_path: Path) -> None:
    attach(tiny.llama(), r=4, target_modules=["q_proj"]).save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    for key in sorted(tensors)[:2]:
        save_file({other: tensor for other, tensor in tensors.items() if other != key}, path)
        with pytest.raises(ValueError, match=rf"half a pair, no {key}; .* incomplete"):
            inspect(tmp_path)
    save_file({key: tensor * float("nan") for key, tensor in tensors.items()}, path)
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        inspect(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged"):
        inspect(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [("nowhere", "does not exist"), ("file", "no GGUF file"), ("empty", "holds no run, adapter or model")],
)
def test_what_is_none_of_them(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=told):
        inspect(tmp_path / name)


def test_a_model_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        inspect(tmp_path)


def test_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: m\n")
    with pytest.raises(ValueError, match=r"receipt\.json is missing"):
        inspect(tmp_path)
    settings = {"lora.r": {"value": 3, "origin": "user"}, "lora.alpha": {"value": 32, "origin": "default"}}
    receipt = {"settings": settings, "base": {"hash": "b"}, "rows": 7, "machine": "m", "versions": {}}
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    lines = [{"step": 1, "loss": 3.5}, {"step": 2, "loss": 2.5}, {"step": 2, "held_out_loss": 2.75}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = inspect(tmp_path)
    assert (found["kind"], found["state"], found["steps"], found["last_loss"]) == ("run", "unfinished", 2, 2.5)
    assert (found["rows"], found["settings"], found["adapter"]) == (7, {"lora.r": 3}, None)
    attach(tiny.llama(), r=3).save(tmp_path / "adapter")
    (tmp_path / "report.json").write_text("{}")
    found = inspect(tmp_path)
    assert found["state"] == "finished" and found["adapter"]["r"] == 3
