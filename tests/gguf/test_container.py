"""Files of llama.cpp and of the `gguf` library, read and written again."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from gguf_files import tiny_file
from lorica.gguf.read import GgufFile, read
from lorica.gguf.types import named
from lorica.gguf.values import Type, Value, array, count, number, text
from lorica.gguf.write import Part, write
from lorica.quant import codec


def copied(file: GgufFile, path: Path) -> Path:
    parts = [
        Part(name, info.type, info.shape, lambda name=name: file.data(name)) for name, info in file.tensors.items()
    ]
    write(path, file.metadata, parts)
    return path


@pytest.mark.parametrize(
    "name", ["f32", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "adapter"], ids=lambda name: f"tiny-llama-{name}"
)
def test_llama_cpps_own_files_are_copied_to_the_bit(shared: Path, tmp_path: Path, name: str) -> None:
    path = shared / "golden" / "gguf" / f"tiny-llama-{name}.gguf"
    assert copied(read(path), tmp_path / "copy.gguf").read_bytes() == path.read_bytes()


def test_a_file_of_the_library_is_copied_to_the_bit(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "a.gguf")
    assert copied(read(path), tmp_path / "b.gguf").read_bytes() == path.read_bytes()


def test_the_same_as_the_library_reads(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "a.gguf")
    ours, theirs = read(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        value = ours.metadata[key].content
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents(), key
        assert [value for value in (ours.metadata[key].type, ours.metadata[key].element) if value is not None] == [
            int(type) for type in field.types
        ]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.type.name, list(reversed(info.shape))) == (tensor.tensor_type.name, tensor.shape.tolist())
        assert np.array_equal(ours.data(tensor.name).numpy(), tensor.data.reshape(-1).view(np.uint8))


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    weight = torch.randn(6, 64)
    values = {
        "general.architecture": text("llama"),
        "general.alignment": count(64),
        "a.number": number(0.1),
        "a.big": Value(Type.UINT64, 1 << 40),
        "some.texts": array(Type.STRING, ["x", "東京"]),
        "some.numbers": array(Type.INT32, [-1, 2]),
    }
    packed = codec("Q8_0").pack(weight)
    parts = [
        Part("norm.weight", named("F32"), (3,), lambda: torch.ones(3)),
        Part("output.weight", named("Q8_0"), (6, 64), lambda: iter([packed[:2], packed[2:]])),
    ]
    write(tmp_path / "a.gguf", values, parts)
    theirs = gguf.GGUFReader(tmp_path / "a.gguf")
    assert theirs.fields["some.texts"].contents() == ["x", "東京"]
    assert theirs.fields["a.big"].contents() == 1 << 40
    norm, output = theirs.tensors
    assert norm.data.tolist() == [1, 1, 1] and norm.data_offset % 64 == output.data_offset % 64 == 0
    assert np.array_equal(gguf.dequantize(output.data, output.tensor_type), codec("Q8_0").unpack(packed).numpy())


def test_text_that_is_no_utf8_survives_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path, {"general.author": text("Mu\udcfcller")}, [])
    assert b"Mu\xfcller" in path.read_bytes()
    assert copied(read(path), tmp_path / "b.gguf").read_bytes() == path.read_bytes()


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "a.gguf")
    before = path.read_bytes()
    read(path).data("output_norm.weight").fill_(7)
    assert path.read_bytes() == before


def test_tensors_are_written_one_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    def data(name: str) -> torch.Tensor:
        alive.append(name)
        return torch.zeros(4)

    parts = [Part(name, named("F32"), (4,), lambda name=name: data(name)) for name in "ab"]
    from lorica.gguf.write import pieces

    stream = pieces({}, parts)
    next(stream)
    assert alive == []
    next(stream)
    assert alive == ["a"]


@pytest.mark.parametrize(("name", "told"), [("x" * 64, "longer than the 63 bytes"), ("a", "written twice")])
def test_names_that_llama_cpp_would_not_read(tmp_path: Path, name: str, told: str) -> None:
    parts = [Part(each, named("F32"), (4,), lambda: torch.zeros(4)) for each in (name, "a")]
    with pytest.raises(ValueError, match=told):
        write(tmp_path / "a.gguf", {}, parts)
    assert not list(tmp_path.iterdir())


def test_metadata_of_another_type_or_missing(tmp_path: Path) -> None:
    metadata = read(tiny_file(tmp_path / "a.gguf")).metadata
    assert (metadata.integer("one.uint8"), metadata.number("one.int8"), metadata.text("no", "x")) == (100, 100, "x")
    for call, key, told in (
        (metadata.integer, "one.string", "STRING, where a whole number"),
        (metadata.text, "many.texts", "ARRAY of STRING, where text"),
        (metadata.texts, "many.numbers", "ARRAY of FLOAT32, where an array of text"),
        (metadata.flag, "one.uint8", "UINT8, where true or false"),
        (metadata.number, "absent", "has no absent"),
    ):
        with pytest.raises(ValueError, match=told):
            call(key)  # type: ignore[operator]
