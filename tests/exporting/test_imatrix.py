"""Importances as llama.cpp stores them, old and new, and what they do to a packed tensor."""

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader

from gguf_files import mutated
from lorica.exporting.imatrix import read_imatrix
from lorica.exporting.quantise import quantise
from lorica.quant import codec

NAME = "blk.0.ffn_down.weight"


def importances() -> np.ndarray:
    return np.random.default_rng(0).gamma(0.5, size=512).astype(np.float32)


def write_gguf_form(path: Path, values: np.ndarray, count: float = 7) -> Path:
    writer = gguf.GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_tensor(f"{NAME}.in_sum2", (values * count).reshape(1, -1).astype(np.float32))
    writer.add_tensor(f"{NAME}.counts", np.array([[count]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_old_form(path: Path, values: np.ndarray, calls: int = 5) -> Path:
    name = NAME.encode()
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values)) + (values * calls).tobytes()
    path.write_bytes(struct.pack("<i", 1) + entry)
    return path


@pytest.mark.parametrize("write", [write_gguf_form, write_old_form])
def test_both_forms(tmp_path: Path, write: object) -> None:
    found = read_imatrix(write(tmp_path / "imatrix", importances()))  # type: ignore[operator]
    assert list(found) == [NAME]
    np.testing.assert_allclose(found[NAME].numpy(), importances(), rtol=1e-6)


def test_it_weighs_what_is_packed(shared: Path, tmp_path: Path) -> None:
    source = shared / "golden" / "gguf" / "tiny-llama-f32.gguf"
    path = write_gguf_form(tmp_path / "imatrix.gguf", importances())
    quantise(source, "Q4_K_M", tmp_path / "out.gguf", imatrix=path)
    weight = next(t.data for t in GGUFReader(source).tensors if t.name == NAME)
    packed = next(t.data for t in GGUFReader(tmp_path / "out.gguf").tensors if t.name == NAME)
    expected = codec("Q4_K").pack(torch.from_numpy(weight.copy()), read_imatrix(path)[NAME])
    assert np.array_equal(packed.reshape(expected.shape), expected.numpy())
    assert not torch.equal(expected, codec("Q4_K").pack(torch.from_numpy(weight.copy())))


def test_what_is_no_imatrix(shared: Path, tmp_path: Path) -> None:
    model = shared / "golden" / "gguf" / "tiny-llama-f32.gguf"
    cut = write_old_form(tmp_path / "cut", importances())
    cut.write_bytes(cut.read_bytes()[:-9])
    text = tmp_path / "text"
    text.write_text("not an imatrix at all")
    for path, told in ((model, "another kind"), (cut, "damaged"), (text, "no imatrix"), (tmp_path / "no", "not exist")):
        with pytest.raises(ValueError, match=told):
            read_imatrix(path)
    with pytest.raises(ValueError, match="damaged"):
        read_imatrix(write_old_form(tmp_path / "negative", -importances()))
    with pytest.raises(ValueError, match="of another model"):
        quantise(
            model, "Q4_K_M", tmp_path / "out.gguf", imatrix=write_old_form(tmp_path / "short", importances()[:100])
        )
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("write", [write_gguf_form, write_old_form])
def test_mutated_files(tmp_path: Path, write: object) -> None:
    """Importances or one ValueError."""
    path = write(tmp_path / "imatrix", importances()[:64])  # type: ignore[operator]
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    header = len(whole) - 4 * 64
    for _ in range(300):
        path.write_bytes(mutated(whole, header, rng)[: rng.choice([len(whole), rng.randrange(len(whole))])])
        try:
            assert all(torch.isfinite(values).all() for values in read_imatrix(path).values())
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100
