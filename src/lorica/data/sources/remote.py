"""Files elsewhere, by address (https://, s3://, hf://datasets/owner/name/...), through fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from lorica.data.findings import Findings
from lorica.data.sources.compressed import kind_of
from lorica.data.sources.files import KINDS, SUPPORTED, File, choose

# What reads some of the systems that fsspec knows but does not bring.
BROUGHT_BY = {
    "http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs",
    "abfs": "adlfs", "az": "adlfs",
}  # fmt: skip


def is_remote(path: str) -> bool:
    """Whether this is an address rather than a path."""
    return "://" in path


def find_remote(path: str, findings: Findings) -> list[File]:
    """The files that an address means: itself, those in a folder, or those that match a pattern, in order of names.

    Raises:
        ValueError: there are none, or the address cannot be reached.
    """
    with reached(path):
        return _find(path, findings)


def _find(path: str, findings: Findings) -> list[File]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(path)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Give https://, s3://, hf:// or another of fsspec's."
        ) from error
    web = path.startswith(("http://", "https://"))
    if not web and any(mark in root for mark in "*?["):
        return choose(path, [_file(system, name) for name in sorted(system.glob(root))], findings)
    if kind_of(path)[0] in KINDS:
        return [_file(system, root)]
    if web or not system.isdir(root):
        raise ValueError(f"Cannot tell how to read {path}: its name ends in none of {SUPPORTED}.")
    return choose(path, [_file(system, name) for name in sorted(system.find(root))], findings)


def _file(system: Any, name: str) -> File:
    shown = str(system.unstrip_protocol(name)).partition("?")[0]  # what follows a question mark may be a key
    return File(shown, lambda: _opened(system, name, shown))


@contextmanager
def _opened(system: Any, name: str, shown: str) -> Iterator[BinaryIO]:
    with reached(shown), system.open(name, "rb") as file:
        yield file


@contextmanager
def reached(path: str) -> Iterator[None]:
    """Turns what networks and fsspec's systems raise into a ValueError that names the address."""
    try:
        yield
    except ImportError as error:
        package = BROUGHT_BY.get(path.partition("://")[0], "")
        remedy = f"Install it (pip install {package})." if package else "Install what it names."
        raise ValueError(f"{path} cannot be read: {error}. {remedy}") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read: {reason}. Check the address, the network, and that you may read it."
        ) from error
