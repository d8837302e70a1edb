"""Files that are whole or not there: written aside, flushed to the disk, then renamed into place.

Tensors go into safetensors files written here rather than by the library, whose metadata order changes from one process
to the next: the same tensors must give the same bytes. The library reads them.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES = {name: dtype for dtype, name in _DTYPES.items()}


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> str:
    """Replace `path` by `data`, whole or in pieces, in one step; returns the SHA-256 of what was written.

    On any failure what stood there before is untouched. Raises OSError (disk full, no permission) after removing what
    was written aside.
    """
    with _written_aside(path, data) as (aside, digest):
        os.replace(aside, path)
    sync_folder(path.parent)
    return digest


def write_with_key(path: Path, data: Iterable[bytes], key: Path, key_data: bytes) -> None:
    """Replace `path` and the `key` beside it, without which nobody reads `path`. A failed write leaves both as they
    were; a kill leaves the former two, the new two, or no key, never one of each.

    Raises OSError as `write_atomically`.
    """
    with _written_aside(path, data) as (aside, _), _written_aside(key, key_data) as (key_aside, _):
        if not key.is_file() or key.read_bytes() != key_data:
            key.unlink(missing_ok=True)
            sync_folder(key.parent)
        os.replace(aside, path)
        os.replace(key_aside, key)
    sync_folder(path.parent)


@contextmanager
def _written_aside(path: Path, data: bytes | Iterable[bytes]) -> Iterator[tuple[Path, str]]:
    """A file beside `path` that holds `data`, on the disk, and its SHA-256; it is removed when the block fails."""
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    digest = hashlib.sha256()
    try:
        with open(aside, "wb") as file:
            for piece in [data] if isinstance(data, bytes) else data:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        yield aside, digest.hexdigest()
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write does not name its file
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """`value` as indented JSON with sorted keys, atomically. Floats that are NaN or infinite are refused."""
    write_atomically(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError saying what is wrong with the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); the file is damaged.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, where a JSON object belongs; the file is damaged.")
    return value


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def safetensors_pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes]:
    """The safetensors file of `tensors`, sorted by name, a tensor at a time: equal tensors and metadata give equal
    bytes, and no more than one tensor is held besides them."""
    layout = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()}
    return lazy_safetensors_pieces(layout, tensors.__getitem__, metadata)


def lazy_safetensors_pieces(
    layout: Mapping[str, tuple[torch.dtype, list[int]]],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes]:
    """The same of tensors that `read` makes when their turn comes; `layout` names their types and shapes."""
    header: dict[str, object] = {"__metadata__": dict(sorted((metadata or {}).items()))}
    offset = 0
    for name in sorted(layout):
        dtype, shape = layout[name]
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield struct.pack("<Q", len(encoded)) + encoded
    for name in sorted(layout):
        tensor = read(name).detach().cpu().contiguous()
        assert (tensor.dtype, list(tensor.shape)) == layout[name]
        yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write `tensors` atomically; returns the SHA-256 of the file."""
    return write_atomically(path, safetensors_pieces(tensors, metadata))


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
