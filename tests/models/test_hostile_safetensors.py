"""Damaged and hostile safetensors files: ValueErrors, and nothing else."""

import json
import random
import struct
from pathlib import Path

import pytest

import tiny_models as tiny
from lorica.models import load
from lorica.models.fingerprint import hash_weight_files
from lorica.models.locate import weight_files
from lorica.models.stored import stored_dtype, stored_tensors


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """One to four changes of the header: bits, digits and names, brackets, its length, cuts."""
    data = bytearray(whole)
    header = struct.unpack("<Q", whole[:8])[0] + 8
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        at, kind = rng.randrange(min(header, len(data))), rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[:8] = struct.pack("<Q", rng.choice([0, 1, header, header - 9, 1 << 27, 1 << 62, (1 << 64) - 1]))
        elif kind == 2:
            data[at : at + 1] = rng.choice([b"9" * 20, b"-1", b"1e9", b"[" * 500, b"null", b"\\u0000", b"../", b'"'])
        elif kind == 3:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 4:
            del data[rng.randrange(len(data)) :]
        else:
            swaps = [(b"F32", b"F64"), (b"F32", b"U8"), (b"F32", b"F9"), (b"[24", b"[48"), (b":[", b":[[")]
            old, new = rng.choice(swaps)
            data = bytearray(bytes(data).replace(old, new, rng.randint(1, 3)))
    return bytes(data)


def test_a_thousand_mutated_headers(pristine: Path, tmp_path: Path) -> None:
    whole = (pristine / "model.safetensors").read_bytes()
    path, rng, refused = tmp_path / "model.safetensors", random.Random(0), 0
    for _ in range(1000):
        path.write_bytes(mutated(whole, rng))
        try:
            stored_dtype([path])
            for stored in stored_tensors([path]).values():
                stored.read().sum()
            hash_weight_files([path])
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("seed", range(8))
def test_a_mutated_model(folder: Path, seed: int) -> None:
    path = folder / "model.safetensors"
    whole, expected = path.read_bytes(), tiny.llama()
    rng = random.Random(seed)
    for _ in range(4):
        path.write_bytes(mutated(whole, rng))
        try:
            base = load(folder, device="cpu", dtype="fp32")
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert {name: p.shape for name, p in base.model.named_parameters()} == {
                name: p.shape for name, p in expected.named_parameters()
            }


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", 7, ""])
def test_shards_outside_the_folder(folder: Path, name: object) -> None:
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"no name of a file beside it"):
        weight_files(folder)
