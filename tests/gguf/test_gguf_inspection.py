"""What a GGUF file holds, against the gguf library's reader and the tensors themselves."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from lorica.inspection import inspect


def test_a_model(shared: Path) -> None:
    path = shared / "golden" / "gguf" / "tiny-llama-Q4_K_M.gguf"
    found, reader = inspect(path), GGUFReader(path)
    assert (found["kind"], found["holds"], found["architecture"], found["name"]) == (
        "gguf",
        "model",
        "llama",
        "tiny-llama",
    )
    assert found["parameters"] == sum(int(tensor.n_elements) for tensor in reader.tensors)
    sizes = {kind: held["bytes"] for kind, held in found["types"].items()}
    assert sizes == {
        kind: sum(int(t.n_bytes) for t in reader.tensors if t.tensor_type.name == kind)
        for kind in ("F32", "Q4_K", "Q6_K")
    }
    assert (found["layers"], found["hidden_size"], found["longest"], found["vocabulary"]) == (2, 256, 512, 320)
    assert found["bytes"] == path.stat().st_size and found["chat_template"] is True


def test_an_adapter(shared: Path) -> None:
    path = shared / "golden" / "gguf" / "tiny-llama-adapter.gguf"
    found = inspect(path)
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    assert found["holds"] == "adapter" and len(found["modules"]) == len(tensors) // 2
    for module in found["modules"]:
        a, b = (tensors[f"{module['module']}.lora_{half}"].astype(np.float64) for half in "ab")
        assert (module["r"], module["scale"]) == (8, 2.0)
        assert module["norm"] == pytest.approx(float(np.linalg.norm(2.0 * b @ a)), rel=1e-6)


def test_damaged(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes((shared / "golden" / "gguf" / "tiny-llama-adapter.gguf").read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut short"):
        inspect(path)
