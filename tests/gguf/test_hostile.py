"""Damaged and hostile files: one clear ValueError each, quickly, within the memory that the file itself takes."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_files import tiny_file
from lorica.gguf.read import read
from lorica.gguf.values import Type, encode_text

Damage = Callable[[bytes], bytes]


def value(type: Type, raw: bytes) -> bytes:
    return struct.pack("<I", type) + raw


def file_of(values: dict[str, bytes], tensors: list[bytes] = [], version: int = 3, data: bytes = b"") -> bytes:  # noqa: B006
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    header += b"".join(encode_text(key) + raw for key, raw in values.items()) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


def tensor(name: str, axes: list[int], type: int = 0, offset: int = 0) -> bytes:
    return encode_text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, type, offset)


def array(element: int, length: int, raw: bytes = b"") -> bytes:
    return value(Type.ARRAY, struct.pack("<IQ", element, length) + raw)


HUGE = (1 << 64) - 1
DATA = bytes(256)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes, too few"),
    "other magic": (b"PK\x03\x04" + bytes(40), "begins with b'PK"),
    "version 1": (file_of({}, version=1) + DATA, "version 1 of GGUF"),
    "version 4": (file_of({}, version=4) + DATA, "version 4 of GGUF"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + DATA, "big endian"),
    "huge number of tensors": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0) + DATA, "announces .* tensors"),
    "huge number of values": (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE) + DATA, "announces .* metadata values"),
    "huge text": (file_of({"a": value(Type.STRING, struct.pack("<Q", HUGE))}) + DATA, "announces .* more"),
    "huge array of text": (file_of({"a": array(Type.STRING, 1 << 60)}) + DATA, "texts in an array"),
    "huge array of numbers": (file_of({"a": array(Type.FLOAT32, 1 << 62)}) + DATA, "numbers in an array"),
    "array of arrays": (file_of({"a": array(Type.ARRAY, 1, array(Type.ARRAY, 1))}) + DATA, "array of arrays"),
    "unknown type": (file_of({"a": struct.pack("<I", 13)}) + DATA, "metadata of type 13"),
    "unknown element": (file_of({"a": array(99, 1)}) + DATA, "metadata of type 99"),
    "truth that is neither": (file_of({"a": value(Type.BOOL, b"\x02")}) + DATA, "neither 0 nor 1"),
    "truths that are neither": (file_of({"a": array(Type.BOOL, 2, b"\x01\x07")}) + DATA, "other numbers than 0 and 1"),
    "key that is no text": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2) + b"\xff\xfe" + DATA, "no text"),
    "empty key": (file_of({"": value(Type.BOOL, b"\1")}) + DATA, "has 0 bytes"),
    "key twice": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (encode_text("a") + value(Type.BOOL, b"\1")) + DATA,
        "the metadata key a twice",
    ),
    "alignment of 3": (file_of({"general.alignment": value(Type.UINT32, struct.pack("<I", 3))}) + DATA, "alignment"),
    "alignment of 0": (file_of({"general.alignment": value(Type.UINT32, bytes(4))}) + DATA, "alignment"),
    "alignment as text": (file_of({"general.alignment": value(Type.STRING, encode_text("32"))}) + DATA, "alignment"),
    "tensor twice": (file_of({}, [tensor("a", [4]), tensor("a", [4], offset=32)], data=DATA), "the tensor a twice"),
    "overlapping": (file_of({}, [tensor("a", [16]), tensor("b", [16], offset=32)], data=DATA), "a and b overlap"),
    "beyond the file": (file_of({}, [tensor("a", [4], offset=1 << 40)], data=DATA), "ends at byte"),
    "offset that wraps": (file_of({}, [tensor("a", [4], offset=HUGE - 31)], data=DATA), "ends at byte"),
    "offset without alignment": (file_of({}, [tensor("a", [4], offset=8)], data=DATA), "no multiple of 32"),
    "too large": (file_of({}, [tensor("a", [1 << 40, 1 << 40])], data=DATA), "empty or too large"),
    "shape that wraps": (file_of({}, [tensor("a", [1 << 32, 1 << 32, 4])], data=DATA), "empty or too large"),
    "no values": (file_of({}, [tensor("a", [0])], data=DATA), "empty or too large"),
    "no axes": (file_of({}, [tensor("a", [])], data=DATA + DATA), "0 axes"),
    "many axes": (file_of({}, [tensor("a", [1] * 9)], data=DATA), "9 axes"),
    "unknown tensor type": (file_of({}, [tensor("a", [4], type=4096)], data=DATA), "ggml type 4,096"),
    "removed tensor type": (file_of({}, [tensor("a", [32], type=4)], data=DATA), "ggml type 4"),
    "rows that do not divide": (file_of({}, [tensor("a", [33, 2], type=8)], data=DATA), "rows of 33"),
    "long name": (file_of({}, [tensor("a" * 64, [4])], data=DATA), "has 64 bytes"),
    "name like a path": (file_of({}, [tensor("../../etc/passwd", [4])], data=DATA), "like a path"),
    "name like a Windows path": (file_of({}, [tensor("a\\b", [4])], data=DATA), "like a path"),
    "name with a zero": (file_of({}, [tensor("a\0b", [4])], data=DATA), "no text"),
}


@pytest.mark.parametrize(("data", "told"), BAD.values(), ids=BAD)
def test_one_clear_error(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=told) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".") and len(message) < 400


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "no.gguf")
    with pytest.raises(ValueError, match="is a directory"):
        read(tmp_path)


def test_every_cut_is_an_error(tmp_path: Path) -> None:
    whole = tiny_file(tmp_path / "a.gguf").read_bytes()
    end = max(info.start + info.size for info in read(tmp_path / "a.gguf").tensors.values())
    path = tmp_path / "cut.gguf"
    for length in range(0, end, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut short|too few|more than its"):
            read(path)


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits flipped, numbers made extreme, bytes cut out, doubled or overwritten."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            extreme = rng.choice([0, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, (1 << 64) - 1])
            data[at : at + 8] = struct.pack("<Q", extreme)
        elif kind == 2:
            del data[at : at + rng.randint(1, 16)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randint(1, 32)]
        else:
            data[at : at + 4] = rng.randbytes(4)
    return bytes(data)


def fuzz(folder: Path, files: int, seed: int) -> int:
    """Read mutated files; returns how many were refused. Anything but a ValueError or a whole file fails."""
    whole = tiny_file(folder / "a.gguf").read_bytes()
    header = len(whole) - 900  # most mutations should hit the header
    rng, path, refused = random.Random(seed), folder / "mutated.gguf", 0
    for _ in range(files):
        path.write_bytes(mutated(whole[:header], rng) + whole[header:])
        try:
            file = read(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            for name, info in file.tensors.items():
                assert file.data(name).numel() == info.size
    return refused


def test_a_thousand_mutated_files(tmp_path: Path) -> None:
    tracemalloc.start()
    refused = fuzz(tmp_path, 1000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 500 and peak < 4 << 20


@pytest.mark.soak
def test_fifty_thousand_mutated_files(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 50_000, seed=1) > 25_000
