"""Opens files as bytes, unpacking those whose names say that they are compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
BUFFER = 1 << 20


def kind_of(path: str) -> tuple[str, str]:
    """The suffix that says what a file is, and that of its compression: ("rows.jsonl.gz") gives (".jsonl", ".gz")."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path.partition("?")[0]).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return (suffixes[-1] if suffixes else ""), compression


@contextmanager
def unpacked(file: BinaryIO, path: str) -> Iterator[BinaryIO]:
    """The content of `file`, unpacked as the name `path` says.

    Raises:
        ValueError: it is not compressed that way, or not whole.
    """
    compression = kind_of(path)[1]
    try:
        yield _reader(file, compression)
    except (gzip.BadGzipFile, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if not compression:
            raise
        raise ValueError(
            f"{path} is not a whole {COMPRESSIONS[compression]} file ({error}). Download or compress it again."
        ) from error


def _reader(file: BinaryIO, compression: str) -> BinaryIO:
    match compression:
        case ".gz":
            return cast(BinaryIO, io.BufferedReader(cast(Any, gzip.open(file)), BUFFER))
        case ".bz2":
            return cast(BinaryIO, io.BufferedReader(cast(Any, bz2.open(file)), BUFFER))
        case ".xz":
            return cast(BinaryIO, io.BufferedReader(cast(Any, lzma.open(file)), BUFFER))
        case ".zst":
            import pyarrow  # unlike the zstandard library, it tells a cut file from a whole one

            return cast(BinaryIO, io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"), BUFFER))
    return file
