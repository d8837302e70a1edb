"""Rows of Parquet, Arrow and Feather files, some at a time. Places are "name:row", counted from 1."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from lorica.data.faults import Faults, RowError
from lorica.data.findings import listing
from lorica.data.sources.row import Row

ROWS = 64  # turned into Python objects together
PAGE = 1 << 20  # bytes: a column is read by pages, not whole, however large the groups of rows are


def read_parquet(name: str, file: BufferedReader, faults: Faults) -> Iterator[Row]:
    """The rows of a Parquet file.

    Raises:
        ValueError: it is none, or not whole.
    """
    from pyarrow.parquet import ParquetFile

    def batches() -> Iterator[Any]:
        table: Iterator[Any] = ParquetFile(file, buffer_size=PAGE, pre_buffer=False).iter_batches(ROWS)
        return table

    yield from _rows(name, "Parquet", batches, faults)


def read_arrow(name: str, file: BufferedReader, faults: Faults) -> Iterator[Row]:
    """The rows of an Arrow file: of the stream or the file format; Feather is the latter.

    Raises:
        ValueError: it is neither, or not whole.
    """
    yield from _rows(name, "Arrow", lambda: _batches(file), faults)


def rows_of_batch(source: str, first: int, batch: Any, faults: Faults) -> Iterator[Row]:
    """The rows of a record batch or table, the first of them numbered `first`."""
    for start in range(0, batch.num_rows, ROWS):
        part = batch.slice(start, ROWS)
        for number, values in enumerate(_values(part), start=first + start):
            place = f"{source}:{number}"
            if isinstance(values, Exception):
                faults.add(place, RowError(f"{place}: a value that cannot be read: {values}."))
            else:
                yield Row(place, values)


def _values(part: Any) -> list[dict[str, Any] | Exception]:
    """Each row's values, or what is wrong with them."""
    from pyarrow import ArrowException

    try:
        part.validate(full=True)  # a damaged file may point outside its own memory
        values: list[dict[str, Any] | Exception] = part.to_pylist()
        return values
    except (ArrowException, ValueError, OverflowError) as error:  # text that is not UTF-8, a date out of range
        return (
            [error] if part.num_rows == 1 else [one for i in range(part.num_rows) for one in _values(part.slice(i, 1))]
        )


def _rows(name: str, kind: str, open_batches: Any, faults: Faults) -> Iterator[Row]:
    first = 1
    batches: Iterator[Any] | None = None
    while True:
        try:
            batches = open_batches() if batches is None else batches
            batch = next(batches, None)
        except (ValueError, OSError, NotImplementedError) as error:  # pyarrow's own are among these
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{name} is not a whole {kind} file ({reason}). Download or write it again.") from error
        if batch is None:
            return
        check_columns(name, batch.schema.names)
        yield from rows_of_batch(name, first, batch, faults)
        first += batch.num_rows


def check_columns(name: str, columns: list[str]) -> None:
    """Raises ValueError where two columns have one name."""
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        raise ValueError(f"{name} has the column {repeated[0]!r} twice; its columns are {listing(columns)}.")


def _batches(file: BufferedReader) -> Iterator[Any]:
    from pyarrow import ipc

    if file.peek(6)[:6] == b"ARROW1":
        reader = ipc.open_file(file)
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(ipc.open_stream(file))
