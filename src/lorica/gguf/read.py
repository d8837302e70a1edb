"""Reads GGUF files (version 2 and 3, little endian) without trusting a word of them.

The `gguf` library's reader takes counts and offsets at their word (its arrays are loops over what the file claims, its
slices come out short without an error), so files from strangers are read by this one: every count is held against the
bytes that are left before anything is made of it. Tensors are views of the mapped file; nothing is read before it is
used.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorica.gguf.metadata import Metadata
from lorica.gguf.types import TensorType, tensor_type
from lorica.gguf.values import FORMATS, Type, Value, array_dtype

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
LONGEST_NAME = 63  # bytes; llama.cpp's names have 64 with the final zero
LONGEST_KEY = 65535
MOST_AXES = 4
MOST_TEXTS = 1 << 22  # in one array; the largest vocabularies have a quarter of a million
MOST_TENSORS = 1 << 17
MOST_VALUES = 1 << 16


@dataclass(frozen=True)
class TensorInfo:
    """`shape` is torch's, the contiguous axis last; `start` and `size` are bytes, from the beginning of the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    start: int
    size: int


class GgufFile:
    """An open file: its `metadata`, its `tensors` by name in the file's order, and their bytes."""

    def __init__(self, path: Path, metadata: Metadata, tensors: dict[str, TensorInfo], data: Tensor) -> None:
        self.path, self.metadata, self.tensors = path, metadata, tensors
        self._data = data

    def data(self, name: str) -> Tensor:
        """The bytes of a tensor, uint8 (bytes), a view of the mapped file. Writing to it never reaches the file."""
        info = self.tensors[name]
        return self._data[info.start : info.start + info.size]

    def rows(self, name: str) -> Tensor:
        """The packed rows of a matrix, uint8 (rows, bytes a row); of a vector one row."""
        shape = self.tensors[name].shape
        return self.data(name).view(int(np.prod(shape[:-1], dtype=np.int64)), -1)


def read(path: str | Path) -> GgufFile:
    """Open a GGUF file.

    Raises:
        ValueError: the file is missing, not GGUF, of another version or byte order, cut short, or says something that
            cannot be: counts, lengths and offsets beyond the file, overlapping tensors, unknown types, names twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist." if not path.exists() else f"{path} is a directory, not a GGUF file.")
    try:
        with open(path, "rb") as file:
            if path.stat().st_size < 24:
                raise ValueError(f"it has {path.stat().st_size} bytes, too few for a GGUF header")
            # a private mapping: torch gets memory that it may write to, and the file stays as it is
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        metadata, tensors = _Reader(mapped).header()
    except ValueError as error:
        raise ValueError(f"{path} is no GGUF file that can be used: {error}.") from None
    return GgufFile(path, Metadata(path, metadata), tensors, torch.frombuffer(mapped, dtype=torch.uint8))


class _Reader:
    """A position in the mapped bytes. Messages are without a full stop; `read` completes them."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at = data, len(data), 0

    def header(self) -> tuple[dict[str, Value], dict[str, TensorInfo]]:
        magic = self.take(4)
        if magic != MAGIC:
            raise ValueError(f"it begins with {magic!r}, a GGUF file with {MAGIC!r}")
        version = self.scalar(Type.UINT32)
        if version not in VERSIONS:
            raise ValueError(_version_message(version))
        tensor_count, value_count = self.scalar(Type.UINT64), self.scalar(Type.UINT64)
        self.check_count(value_count, 13, MOST_VALUES, "metadata values")
        self.check_count(tensor_count, 33, MOST_TENSORS, "tensors")
        metadata = self.metadata(value_count)
        return metadata, self.tensors(tensor_count, _alignment(metadata))

    def take(self, length: int) -> bytes:
        if length > self.size - self.at:
            raise ValueError(
                f"at byte {self.at:,} it announces {length:,} more, and {self.size - self.at:,} follow; it is cut "
                "short or damaged, download it again"
            )
        taken = self.data[self.at : self.at + length]
        self.at += length
        return taken

    def check_count(self, count: int, least: int, most: int, what: str) -> None:
        """`count` things of at least `least` bytes each have to fit in what is left, and be no more than `most`."""
        if count * least > self.size - self.at:
            raise ValueError(f"it announces {count:,} {what}, more than its {self.size:,} bytes can hold")
        if count > most:
            raise ValueError(f"it has {count:,} {what}, and no model has more than {most:,}")

    def scalar(self, type: Type) -> Any:
        layout = FORMATS[type]
        raw = self.take(struct.calcsize(layout))
        if type == Type.BOOL and raw not in (b"\0", b"\1"):
            raise ValueError(f"a truth value at byte {self.at - 1:,} is {raw[0]}, neither 0 nor 1")
        return struct.unpack(layout, raw)[0]

    def text(self) -> str:
        return self.take(self.scalar(Type.UINT64)).decode("utf-8", "surrogateescape")

    def name(self, longest: int, what: str) -> str:
        """A key or the name of a tensor: short, UTF-8, and of printable characters."""
        length = self.scalar(Type.UINT64)
        if not 0 < length <= longest:
            raise ValueError(f"{what} at byte {self.at:,} has {length:,} bytes; 1 to {longest:,} are allowed")
        raw = self.take(length)
        try:
            found = raw.decode("utf-8")
        except UnicodeDecodeError:
            found = ""
        if not found.isprintable() or not found:
            raise ValueError(f"{what} is {raw[:40]!r}, which is no text")
        return found

    def type(self) -> Type:
        found = self.scalar(Type.UINT32)
        if found not in Type._value2member_map_:
            raise ValueError(f"metadata of type {found} at byte {self.at - 4:,}; the format has types 0 to 12")
        return Type(found)

    def metadata(self, count: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for _ in range(count):
            key = self.name(LONGEST_KEY, "a metadata key")
            if key in values:
                raise ValueError(f"it has the metadata key {key} twice")
            values[key] = self.value()
        return values

    def value(self) -> Value:
        type = self.type()
        if type == Type.STRING:
            return Value(type, self.text())
        return self.array() if type == Type.ARRAY else Value(type, self.scalar(type))

    def array(self) -> Value:
        element, length = self.type(), self.scalar(Type.UINT64)
        if element == Type.ARRAY:
            raise ValueError(f"an array of arrays at byte {self.at - 12:,}, which llama.cpp does not read either")
        if element == Type.STRING:
            self.check_count(length, 8, MOST_TEXTS, "texts in an array")
            return Value(Type.ARRAY, [self.text() for _ in range(length)], element)
        dtype = array_dtype(element)
        self.check_count(length, dtype.itemsize, self.size, "numbers in an array")
        raw = self.take(length * dtype.itemsize)
        if element == Type.BOOL and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
            raise ValueError(f"an array of truth values before byte {self.at:,} holds other numbers than 0 and 1")
        return Value(Type.ARRAY, np.frombuffer(raw, dtype), element)

    def tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        relative: dict[str, TensorInfo] = {}
        for _ in range(count):
            info = self.tensor(alignment)
            if info.name in relative:
                raise ValueError(f"it has the tensor {info.name} twice")
            relative[info.name] = info
        base = -(-self.at // alignment) * alignment
        placed = {
            name: TensorInfo(name, info.type, info.shape, base + info.start, info.size)
            for name, info in relative.items()
        }
        _check_places(placed, self.size)
        return placed

    def tensor(self, alignment: int) -> TensorInfo:
        name = self.name(LONGEST_NAME, "a tensor's name")
        if "/" in name or "\\" in name or ".." in name:
            raise ValueError(f"a tensor is called {name!r}, like a path")
        axes = self.scalar(Type.UINT32)
        if not 1 <= axes <= MOST_AXES:
            raise ValueError(f"the tensor {name} has {axes:,} axes; 1 to {MOST_AXES} are allowed")
        sizes = [self.scalar(Type.UINT64) for _ in range(axes)]
        type, offset = tensor_type(self.scalar(Type.UINT32), name), self.scalar(Type.UINT64)
        if offset % alignment:
            raise ValueError(f"the tensor {name} begins at byte {offset:,} of the data, no multiple of {alignment}")
        return TensorInfo(name, type, tuple(reversed(sizes)), offset, type.size(sizes, name))


def _version_message(version: int) -> str:
    if version & 0xFFFF == 0 and version:
        return "it is big endian (made for another kind of machine); convert it with gguf-convert-endian"
    if version == 1:
        return "it is version 1 of GGUF, of August 2023, which llama.cpp does not read either; convert the model again"
    return f"it is version {version:,} of GGUF; versions 2 and 3 can be read"


def _alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment")
    if value is None:
        return ALIGNMENT
    content = value.content
    if value.type != Type.UINT32 or not 0 < content <= 1 << 20 or content & (content - 1) or content % 8:
        raise ValueError("general.alignment is no power of two from 8 to 1,048,576, as 32 unsigned bits")
    return int(content)


def _check_places(tensors: Mapping[str, TensorInfo], size: int) -> None:
    """Every tensor inside the file, and none inside another."""
    end, before = 0, ""
    for info in sorted(tensors.values(), key=lambda info: info.start):
        if info.start + info.size > size:
            raise ValueError(
                f"the tensor {info.name} ends at byte {info.start + info.size:,}, and the file at {size:,}; it is cut "
                "short or damaged, download it again"
            )
        if info.start < end:
            raise ValueError(f"the tensors {before} and {info.name} overlap")
        end, before = info.start + info.size, info.name
