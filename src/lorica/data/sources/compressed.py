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
from typing import Any, BinaryIO

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
BUFFER = 1 << 20


def kind_of(path: str) -> tuple[str, str]:
    """The suffix that says what a file is, and that of its compression: ("rows.jsonl.gz") gives (".jsonl", ".gz")."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path.partition("?")[0]).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return (suffixes[-1] if suffixes else ""), compression


@contextmanager
def unpacked(file: BinaryIO, path: str) -> Iterator[io.BufferedReader]:
    """The content of `file`, unpacked as the name `path` says, buffered.

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


def _reader(file: BinaryIO, compression: str) -> io.BufferedReader:
    content: Any = file
    match compression:
        case ".gz":
            content = gzip.open(file)  # noqa: SIM115 - closes nothing: the file is the caller's
        case ".bz2":
            content = bz2.open(file)  # noqa: SIM115
        case ".xz":
            content = lzma.open(file)  # noqa: SIM115
        case ".zst":
            import pyarrow  # unlike the zstandard library, it tells a cut file from a whole one

            content = pyarrow.CompressedInputStream(file, "zstd")
    return content if isinstance(content, io.BufferedReader) else io.BufferedReader(content, BUFFER)
