"""A run on a checkpoint that bitsandbytes packed as NF4, exported to everything."""

import json
import shutil
from pathlib import Path
from typing import Any

import made
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import lorica
import tiny_models as tiny
from bases import pack_by_bitsandbytes, sums, write_base, write_rows
from lorica.exporting.quantise import quantise
from lorica.run.answer import answer
from lorica.run.reopen import open_for_answers

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
IDS = torch.randint(0, 290, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=[True, False], ids=["double", "single"])
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` is packed; `dense` is what bitsandbytes unpacks of it, in fp32; `run` was trained on `base`."""
    folder = tmp_path_factory.mktemp("nf4")
    base, dense = (write_base(folder / name, **SIZES) for name in ("base", "dense"))
    model = AutoModelForCausalLM.from_pretrained(dense)
    pack_by_bitsandbytes(base, model, double=request.param)
    model.save_pretrained(dense)
    lorica.train(
        model={"path": str(base), "dtype": "fp32"},
        data=str(write_rows(folder / "rows.jsonl", sums())),
        out=str(folder / "run"),
        lora={"r": 3, "alpha": 5},
        train={"steps": 12, "batch_size": 4, "lr": 0.02},
        evaluate={"held_out": 0.2, "forgetting": None, "max_new_tokens": 3},
        system={"threads": 1},
    )
    return folder


@pytest.fixture
def wanted(there: Path) -> torch.Tensor:
    """What PEFT computes of the adapter on the weights that bitsandbytes unpacks."""
    return made.by_peft(there / "dense", there / "run" / "adapter", IDS)


def test_merged(there: Path, wanted: torch.Tensor, tmp_path: Path) -> None:
    result = lorica.export(there / "run", "merged", out=tmp_path / "out")
    assert result.ok and result.proof is not None and result.proof.kl < 1e-9
    assert any("written unpacked" in note for note in result.notes)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    torch.testing.assert_close(made.by_transformers(tmp_path / "out", IDS), wanted, rtol=1e-4, atol=1e-4)
    half = lorica.export(there / "run", "merged", out=tmp_path / "half", type="BF16")
    assert half.ok
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors.keys() == load_file(there / "dense" / "model.safetensors").keys()


def test_an_adapter_for_peft(there: Path, wanted: torch.Tensor, tmp_path: Path) -> None:
    result = lorica.export(there / "run", "peft", out=tmp_path / "out")
    assert result.ok and result.proof is not None and result.proof.kl == 0
    torch.testing.assert_close(made.by_peft(there / "dense", tmp_path / "out", IDS), wanted)


@pytest.mark.parametrize(("to", "kind"), [("gguf", "F32"), ("gguf", "Q8_0"), ("gguf-adapter", None)])
def test_gguf(there: Path, wanted: torch.Tensor, tmp_path: Path, to: str, kind: str | None) -> None:
    result = lorica.export(there / "run", to, out=tmp_path / "out", type=kind)
    assert result.ok
    base = lorica.load(there / "base" if kind is None else tmp_path / "out" / "model.gguf", dtype="fp32")
    if kind is None:
        lorica.load_adapter(base, tmp_path / "out" / "adapter.gguf")
    found = tiny.logits(base.model, IDS)
    if kind == "Q8_0":
        untouched = made.by_transformers(there / "dense", IDS)
        assert (found - wanted).norm() < 0.1 * (untouched - wanted).norm()
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_answers_are_the_same(there: Path, tmp_path: Path) -> None:
    lorica.export(there / "run", "merged", out=tmp_path / "merged", type="F32")
    run, merged, untouched = (
        answer(open_for_answers(path, base_only=base_only), "three plus four is", 8).token_ids
        for path, base_only in ((there / "run", False), (tmp_path / "merged", False), (there / "run", True))
    )
    assert run == merged != untouched


def test_a_base_alone(there: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"packed already \(NF4\)"):
        quantise(there / "base", "F32", tmp_path / "base.gguf")
    quantise(there / "base", "F32", tmp_path / "base.gguf", requantise=True)
    found = tiny.logits(lorica.load(tmp_path / "base.gguf", dtype="fp32").model, IDS)
    torch.testing.assert_close(found, made.by_transformers(there / "dense", IDS), rtol=1e-4, atol=1e-4)


BAD: dict[str, Any] = {"dtype": "int8", "shape": [1, 2, 3], "quant_type": "fp4"}


@pytest.mark.parametrize("key", BAD)
def test_a_damaged_state_is_told_with_its_file(there: Path, tmp_path: Path, key: str) -> None:
    name = "model.layers.1.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"
    shutil.copytree(there / "base", tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    state = json.loads(bytes(tensors[name].tolist())) | {key: BAD[key]}
    tensors[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    save_file(tensors, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors: model\.layers\.1\.mlp\.up_proj cannot be read"):
        quantise(tmp_path / "base", "F32", tmp_path / "base.gguf")
