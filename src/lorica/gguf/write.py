"""Writes GGUF files (version 3) as a stream: the header, then one tensor after the other, never two in memory."""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorica.files import write_atomically
from lorica.gguf.read import ALIGNMENT, LONGEST_NAME, MAGIC
from lorica.gguf.types import TensorType
from lorica.gguf.values import Value, encode_text


@dataclass(frozen=True)
class Part:
    """A tensor to be written. `shape` is torch's; `data` is called when its turn comes and gives its packed bytes, as
    one tensor or piece by piece, of any dtype."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    data: Callable[[], Tensor | Iterable[Tensor]]

    @property
    def size(self) -> int:
        return self.type.size(tuple(reversed(self.shape)), self.name)


def write(path: str | Path, metadata: Mapping[str, Value], parts: Sequence[Part]) -> str:
    """Write a file, whole or not at all; returns its SHA-256.

    Metadata is written as it is, so that of a read file is copied to the bit. Raises ValueError for names twice or too
    long for llama.cpp, and rows that are no whole blocks; OSError when the disk is full.
    """
    return write_atomically(Path(path), pieces(metadata, parts))


def pieces(metadata: Mapping[str, Value], parts: Sequence[Part]) -> Iterator[bytes]:
    """The bytes of the file, in order."""
    value = metadata.get("general.alignment")
    alignment = ALIGNMENT if value is None else int(value.content)
    header = _header(metadata, parts, alignment)
    yield header + bytes(-len(header) % alignment)
    for part in parts:
        written = 0
        data = part.data()
        for piece in [data] if isinstance(data, Tensor) else data:
            raw = piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            written += len(raw)
            yield raw
        assert written == part.size, f"{part.name} gave {written} bytes, not {part.size}"
        yield bytes(-written % alignment)


def _header(metadata: Mapping[str, Value], parts: Sequence[Part], alignment: int) -> bytes:
    _check_names(parts)
    header = bytearray(MAGIC + struct.pack("<IQQ", 3, len(parts), len(metadata)))
    for key, value in metadata.items():
        header += encode_text(key) + struct.pack("<I", value.type) + value.encode()
    offset = 0
    for part in parts:
        axes = tuple(reversed(part.shape))
        header += encode_text(part.name) + struct.pack(f"<I{len(axes)}Q", len(axes), *axes)
        header += struct.pack("<IQ", part.type.id, offset)
        offset += -(-part.size // alignment) * alignment
    return bytes(header)


def _check_names(parts: Sequence[Part]) -> None:
    seen: set[str] = set()
    for part in parts:
        if part.name in seen:
            raise ValueError(f"the tensor {part.name} would be written twice.")
        if len(part.name.encode()) > LONGEST_NAME:
            raise ValueError(f"the name {part.name} is longer than the {LONGEST_NAME} bytes that llama.cpp reads.")
        seen.add(part.name)
