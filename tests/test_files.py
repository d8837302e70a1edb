"""Files that are whole or not there, and tensors whose bytes are always the same."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load

from lorica import files

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(max_size=12), st.lists(st.integers(0, 4), max_size=3), max_size=5),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    st.randoms(use_true_random=False),
)
def test_safetensors_reads_what_is_written(
    shapes: dict[str, list[int]], metadata: dict[str, str], random: object
) -> None:
    shapes.pop("__metadata__", None)
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        tensors[name] = (torch.arange(int(torch.tensor(shape).prod())) % 2).reshape(shape).to(DTYPES[i % len(DTYPES)])
    data = whole(tensors, metadata)
    read = load(data)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    shuffled = list(tensors.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert whole(dict(shuffled), dict(reversed(metadata.items()))) == data


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_layout(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = torch.arange(24).reshape(4, 6)
    views = {
        "plain": whole,
        "transposed": whole.t(),
        "sliced": whole[1:3, ::2],
        "zero": whole[:0],
        "scalar": whole[2, 3],
    }
    tensors = {name: view.to(dtype) if dtype is not torch.int64 else view for name, view in views.items()}
    digest = files.write_safetensors(tmp_path / "t.safetensors", tensors, {"who": "мы"})
    assert digest == files.sha256(tmp_path / "t.safetensors")
    assert digest == hashlib.sha256((tmp_path / "t.safetensors").read_bytes()).hexdigest()
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert file.metadata() == {"who": "мы"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_parameters_and_gradients_are_written_as_values() -> None:
    parameter = torch.nn.Parameter(torch.arange(3.0))
    assert torch.equal(load(whole({"p": parameter}))["p"], parameter)


def whole(*arguments: Any) -> bytes:
    return b"".join(files.safetensors_pieces(*arguments))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "файл.json"
    files.write_atomically(path, b"one")
    files.write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and names(tmp_path) == ["файл.json"]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    path = tmp_path / "kept"
    files.write_atomically(path, b"one")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, stage, full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"two")
    monkeypatch.undo()
    assert path.read_bytes() == b"one" and names(tmp_path) == ["kept"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.write_atomically(tmp_path / "nowhere" / "file", b"")


def test_json_is_sorted_and_refuses_what_json_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    files.write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="nan"):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é", "b": 1} == files.read_json(path)


@pytest.mark.parametrize(
    ("content", "told"), [(b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (b"[]", "holds a list")]
)
def test_reading_json_says_what_is_wrong(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        files.read_json(path)
    with pytest.raises(ValueError, match="is missing"):
        files.read_json(tmp_path / "w.json")


def test_the_hash_of_a_value_is_of_its_content() -> None:
    assert files.hash_json({"a": 1, "b": [2]}) == files.hash_json({"b": [2], "a": 1})
    assert files.hash_json({"a": 1}) != files.hash_json({"a": "1"})
