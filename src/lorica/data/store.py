"""Examples on disk that read as a sequence, so that a data set needs no memory but some fifty bytes a row.

Encoded examples lie end to end in a temporary file that has no name and so vanishes with the process, however that
ends. What is asked of all rows at once (lengths, hashes) is an array in memory. A run reads its rows from its own
store and never from the cache: clearing or pruning the cache cannot touch a run.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any, overload

import numpy as np

from lorica.data.encoding import decode, encode, header
from lorica.data.examples import Example

# Columns: where the example ends in the file, its tokens, supervised tokens, the user's row it is of (counted from 0),
# and the hash of its prompt (0 for plain text).
_COLUMNS = {"end": "Q", "tokens": "I", "supervised": "I", "row": "I", "prompt": "Q"}


class _File:
    """Bytes of a file by place, for several threads (training makes its steps ahead in one)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lock = file, Lock()

    def read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)


class StoredExamples(Sequence[Example]):
    """Examples in a file, in order; a part of them shares the file. Made by `ExampleWriter` or `store`.

    `chosen` are the indices of a part; None is all.
    """

    def __init__(self, file: _File, columns: dict[str, np.ndarray], chosen: np.ndarray | None = None) -> None:
        self._file, self._columns, self._chosen = file, columns, chosen

    def __len__(self) -> int:
        return len(self._columns["end"] if self._chosen is None else self._chosen)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> StoredExamples: ...
    def __getitem__(self, index: int | slice) -> Example | StoredExamples:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        encoded, source = self.encoded(index)
        return decode(encoded, source)

    def encoded(self, index: int) -> tuple[bytes, str]:
        """The encoded example and the place it came from."""
        at = range(len(self))[index] if self._chosen is None else int(self._chosen[index])
        ends = self._columns["end"]
        start = int(ends[at - 1]) if at else 0
        data = self._file.read(start, int(ends[at]) - start)
        begin = 4 + int.from_bytes(data[:4], "little")
        return data[begin:], data[4:begin].decode("utf-8", "surrogatepass")

    def source(self, index: int) -> str:
        """The place the example came from."""
        return self.encoded(index)[1]

    def take(self, indices: np.ndarray | Sequence[int]) -> StoredExamples:
        """These examples, in the order of `indices`."""
        chosen = np.asarray(indices, dtype=np.uint32)
        return StoredExamples(self._file, self._columns, chosen if self._chosen is None else self._chosen[chosen])

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each example, (examples,) uint32."""
        return self._column("tokens")

    @property
    def supervised(self) -> np.ndarray:
        """Tokens with a loss of each example, (examples,) uint32."""
        return self._column("supervised")

    @property
    def rows(self) -> np.ndarray:
        """The number of the user's row that each example is of, (examples,) uint32."""
        return self._column("row")

    @property
    def prompts(self) -> np.ndarray:
        """A hash of each example's prompt, 0 for plain text, (examples,) uint64."""
        return self._column("prompt")

    @property
    def fingerprints(self) -> np.ndarray:
        """`Example.fingerprint` of each example, (examples, 16) uint8."""
        return self._column("fingerprint")

    @property
    def contents(self) -> np.ndarray:
        """The first 64 bits of each fingerprint, (examples,) uint64: equal for equal tokens and weights."""
        return self.fingerprints.view("<u8")[:, 0]

    def _column(self, name: str) -> np.ndarray:
        column = self._columns[name]
        return column if self._chosen is None else column[self._chosen]

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of equal examples."""
        if not isinstance(other, Sequence) or isinstance(other, str) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"StoredExamples({len(self):,} examples, {int(self.tokens.sum()):,} tokens)"


class ExampleWriter:
    """Appends encoded examples; `finish` makes them readable.

    Raises:
        ValueError: the folder of temporary files is full or cannot be written.
    """

    def __init__(self) -> None:
        with _disk_told():
            self._file: IO[bytes] = TemporaryFile(prefix="lorica-", buffering=1 << 20)  # noqa: SIM115 - the store's
        self._columns: dict[str, Any] = {name: array(code) for name, code in _COLUMNS.items()}
        self._fingerprints = bytearray()
        self._end = 0

    def append(self, row: int, source: str, encoded: bytes) -> None:
        """Adds an example of the user's row number `row`."""
        told, name = header(encoded), source.encode("utf-8", "surrogatepass")
        with _disk_told():
            self._file.write(b"".join((len(name).to_bytes(4, "little"), name, encoded)))
        self._end += 4 + len(name) + len(encoded)
        values = (self._end, told.tokens, told.supervised, row, told.prompt or 0)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        self._fingerprints += told.fingerprint

    def finish(self) -> StoredExamples:
        """All that was appended, as a sequence."""
        with _disk_told():
            self._file.flush()
        columns = {name: np.frombuffer(column, column.typecode) for name, column in self._columns.items()}
        columns["fingerprint"] = np.frombuffer(self._fingerprints, np.uint8).reshape(-1, 16)
        return StoredExamples(_File(self._file), columns)


@contextmanager
def _disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"the tokenised rows cannot be written to the folder of temporary files ({error.strerror or error}). Free "
            "space there, or name another folder with the environment variable TMPDIR."
        ) from error


def store(examples: Iterable[Example]) -> StoredExamples:
    """The examples, those of one source taken for one row."""
    writer, rows = ExampleWriter(), dict[str, int]()
    for example in examples:
        writer.append(rows.setdefault(example.source, len(rows)), example.source, encode(example))
    return writer.finish()
