"""The rows of one source, whatever it is: a stream that is opened file by file."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from lorica.config.data_section import SourceConfig
from lorica.data.faults import Faults
from lorica.data.findings import Findings
from lorica.data.sources.arrow import read_arrow, read_parquet
from lorica.data.sources.compressed import kind_of, unpacked
from lorica.data.sources.files import SUPPORTED, File
from lorica.data.sources.hub import is_hub_id, is_saved, read_hub, read_saved
from lorica.data.sources.json_rows import read_json
from lorica.data.sources.local import find_local
from lorica.data.sources.remote import find_remote, is_remote
from lorica.data.sources.row import Row
from lorica.data.sources.tables import read_table
from lorica.data.sources.text import read_text

EMPTY = "file without rows"


def read_rows(source: SourceConfig, faults: Faults, findings: Findings) -> Iterator[Row]:
    """Yields the rows of a source, in order. What is wrong with one of them goes to `faults`.

    A path that exists here is read here, whatever its name; only what does not, and looks like the id of a data set of
    the hub, is asked of the network.

    Raises:
        ValueError: the source, or one of its files, does not exist, cannot be read, or holds no rows.
    """
    try:
        rows = _rows(source, faults, findings)
        first = next(rows, None)
        if first is None:
            if not faults.count:
                raise ValueError(f"{source.path} holds no rows. Expected {SUPPORTED}.")
            return
        yield first
        yield from rows
    except OSError as error:
        place = error.filename or source.path
        raise ValueError(f"{place} cannot be read: {error.strerror or error}. Check that you may read it.") from error


def _rows(source: SourceConfig, faults: Faults, findings: Findings) -> Iterator[Row]:
    if is_remote(source.path):
        _refuse(source, "name", "split", "revision")
        yield from _files(source, find_remote(source.path, findings), faults, findings)
    elif is_saved(source.path):
        _refuse(source, "name", "revision", "sample_by")
        yield from read_saved(source, faults)
    elif not Path(source.path).expanduser().exists() and is_hub_id(source.path):
        _refuse(source, "sample_by")
        yield from read_hub(source, faults)
    else:
        _refuse(source, "name", "split", "revision")
        yield from _files(source, find_local(source.path, findings), faults, findings)


def _refuse(source: SourceConfig, *options: str) -> None:
    """Options that this kind of source would ignore are errors."""
    for option in options:
        if (value := getattr(source, option)) is not None:
            what = "is for text files only" if option == "sample_by" else "is for data sets of the hub or saved ones"
            raise ValueError(
                f"data.{option} ({value}) {what}, and {source.path} is none. Leave it out, or give it to the source "
                "that it is for (an entry of the list data.path)."
            )


def _files(source: SourceConfig, files: list[File], faults: Faults, findings: Findings) -> Iterator[Row]:
    if all(file.kind != "text" for file in files):
        _refuse(source, "sample_by")
    for file in files:
        before = faults.count
        empty = True
        for row in _read(file, source.sample_by, faults):
            empty = False
            yield row
        if empty and faults.count == before and len(files) > 1:
            findings.add(EMPTY, file.name, "It holds no rows; the other files of its source do.")


def _read(file: File, sample_by: str | None, faults: Faults) -> Iterator[Row]:
    suffix, compression = kind_of(file.name)
    if compression and file.kind in ("parquet", "arrow"):
        raise ValueError(f"{file.name}: {suffix} files compress their columns themselves; unpack it first.")
    with file.open() as raw, unpacked(raw, file.name) as content:
        yield from _parsed(file, content, sample_by or ("document" if suffix == ".md" else "line"), faults)


def _parsed(file: File, content: BufferedReader, sample_by: str, faults: Faults) -> Iterator[Row]:
    match file.kind:
        case "json":
            yield from read_json(file.name, content, faults)
        case "csv":
            yield from read_table(file.name, content, faults)
        case "parquet":
            yield from read_parquet(file.name, content, faults)
        case "arrow":
            yield from read_arrow(file.name, content, faults)
        case _:
            yield from read_text(file.name, content, faults, sample_by)
