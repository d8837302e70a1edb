"""What `lorica inspect` says of GGUF files."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import tiny_models as tiny
from gguf_files import convert
from lorica.cli import app
from lorica.gguf.values import number, text
from lorica.gguf.write import write
from lorica.inspection import inspect


def test_a_model(tmp_path: Path) -> None:
    model = tiny.llama(hidden_size=64)
    found = inspect(convert(model, tmp_path / "a.gguf", type="Q8_0"))
    assert (found["kind"], found["holds"], found["architecture"]) == ("gguf", "model", "llama")
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (found["layers"], found["hidden_size"], found["vocabulary"], found["longest"]) == (2, 64, 61, 64)
    assert found["types"]["Q8_0"]["tensors"] == 14 and found["types"]["F32"]["tensors"] == 7  # rows of 40 stay F32
    sizes = sum(entry["bytes"] for entry in found["types"].values())
    assert found["bits_per_weight"] == pytest.approx(8 * sizes / found["parameters"], abs=1e-3)
    assert (found["tokenizer"], found["pre_tokenizer"], found["stops"]) == ("llama", "default", ["</s>"])
    assert found["metadata"]["tokenizer.ggml.tokens"] == "61 x string"
    json.dumps(found, allow_nan=False)


def test_an_adapter_of_llama_cpp(shared: Path) -> None:
    found = inspect(shared / "golden" / "gguf" / "tiny-llama-adapter.gguf")
    assert found["holds"] == "adapter" and found["bits_per_weight"] == 32
    assert found["metadata"]["adapter.lora.alpha"] == 16.0


def test_odd_metadata_is_shown_safely(tmp_path: Path) -> None:
    values = {"a": text("M\udcfc" + "x" * 300), "b": number(float("nan")), "general.architecture": text("novel")}
    write(tmp_path / "a.gguf", values, [])
    found = inspect(tmp_path / "a.gguf")
    assert found["metadata"]["b"] == "nan" and found["metadata"]["a"].endswith("(302 letters)")
    assert found["parameters"] == 0 and found["bits_per_weight"] is None
    json.dumps(found, allow_nan=False)


def test_on_the_command_line(tmp_path: Path) -> None:
    path = convert(tiny.llama(), tmp_path / "a.gguf")
    plain = CliRunner().invoke(app, ["inspect", str(path)])
    assert plain.exit_code == 0 and "architecture: llama" in plain.stdout and "bits_per_weight: 32" in plain.stdout
    told = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)
    assert told["types"]["F32"]["tensors"] == 21


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + torch.arange(64, dtype=torch.uint8).numpy().tobytes())
    with pytest.raises(ValueError, match="no GGUF file that can be used"):
        inspect(tmp_path / "a.gguf")
