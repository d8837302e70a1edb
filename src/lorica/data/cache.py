"""Tokenised rows kept between runs, found by content: editing one row tokenises one row anew.

A row's key is a hash of what it says and of everything that decides its tokens: tokenizer, template, options, versions.
So an entry cannot be stale, only unused. All entries of one such setting are one SQLite file, which several processes
may use at once and no crash can spoil; files that were not used for longest go when the folder outgrows its limit.

The cache is never needed: where it cannot be opened, read or written, rows are tokenised anew and a line says so.
Every entry carries a checksum, and one that does not agree counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 8 << 30  # bytes of all files together
WAIT_SECONDS = 10.0  # for another process that is writing
_SUFFIX = ".rows"
_SIDE_FILES = ("", "-wal", "-shm")

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """What became of one row: its encoded examples, and what was noticed in it as (name, message)."""

    examples: list[bytes]
    findings: list[tuple[str, str]]

    def to_bytes(self) -> bytes:
        parts = [*self.examples, json.dumps(self.findings).encode()]
        sizes = struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts))
        return b"".join((sizes, *parts))

    @classmethod
    def from_bytes(cls, data: bytes) -> TokenisedRow:
        count = struct.unpack_from("<I", data)[0]
        at, parts = 4 * (count + 1), []
        for size in struct.unpack_from(f"<{count}I", data, 4):
            parts.append(data[at : at + size])
            at += size
        return cls(parts[:-1], [(name, message) for name, message in json.loads(parts[-1])])


class RowCache:
    """Tokenised rows by key, in the file of one `context` (a hex digest) in `folder`; without a folder, always empty.

    `notice` is told, once, if the cache cannot be used.
    """

    def __init__(self, folder: Path | None, context: str, notice: Notice, limit: int = LIMIT) -> None:
        self._notice = notice
        self._connection: sqlite3.Connection | None = None
        self._room = limit
        if folder is None:
            return
        self.path = folder / f"{context}{_SUFFIX}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connection = _open(self.path)
            self._room = limit - _prune(folder, limit)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, TokenisedRow]:
        """The rows that are there and whole."""
        if self._connection is None or not keys:
            return {}
        marks = ",".join("?" * len(keys))
        try:
            found = self._connection.execute(f"SELECT key, value FROM rows WHERE key IN ({marks})", keys).fetchall()
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return {}
        return {key: TokenisedRow.from_bytes(value[16:]) for key, value in found if _is_whole(key, value)}

    def put(self, rows: Mapping[bytes, TokenisedRow]) -> None:
        """Keeps the rows, unless the limit is reached."""
        if self._connection is None or not rows:
            return
        values = {key: row.to_bytes() for key, row in rows.items()}
        self._room -= sum(map(len, values.values()))
        if self._room < 0:
            return self._give_up("the cache has reached its limit; `lorica data cache --clear` empties it")
        entries = [(key, _checksum(key, value) + value) for key, value in values.items()]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", entries)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def close(self) -> None:
        """Closes the file; the cache is empty afterwards."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _give_up(self, reason: object) -> None:
        self._notice(
            f"the cache of tokenised rows {self.path} is not used further: {reason}. Nothing is lost but time."
        )
        try:
            self.close()
        except sqlite3.Error:
            self._connection = None


def default_folder() -> Path:
    """Where this platform keeps what can be made again."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lorica" / "rows"


def cache_folder(setting: str) -> Path | None:
    """The folder that `system.cache` means: auto (none for a user without a home), none, or a path."""
    if setting == "none":
        return None
    try:
        return default_folder() if setting == "auto" else Path(setting).expanduser()
    except RuntimeError:  # there is no home
        return None


def cache_files(folder: Path) -> list[Path]:
    """The cache's files, the one unused for longest first."""
    return sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []


def clear(folder: Path) -> int:
    """Removes all entries; returns the bytes that were freed."""
    return sum(_remove(path) for path in cache_files(folder))


def size_of(path: Path) -> int:
    """Bytes of one cache file with what belongs to it."""
    return sum(side.stat().st_size for side in _sides(path) if side.exists())


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
    path.touch()  # the time of last use, which pruning goes by
    return connection


def _prune(folder: Path, limit: int) -> int:
    """Removes files, longest unused first, until the rest leaves a quarter of `limit` free; returns the bytes left."""
    files = cache_files(folder)
    total = sum(map(size_of, files))
    for path in files[:-1]:  # the last is the one in use
        if total > 3 * limit // 4:
            total -= _remove(path)
    return total


def _remove(path: Path) -> int:
    size = size_of(path)
    for side in _sides(path):
        side.unlink(missing_ok=True)
    return size


def _sides(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _SIDE_FILES]


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16, key=key).digest()


def _is_whole(key: bytes, value: object) -> bool:
    return isinstance(value, bytes) and _checksum(key, value[16:]) == value[:16]
