"""Files on this machine: by name, in a folder and the folders in it, or by a pattern. Never the network.

The files of a folder or pattern come in the order of their paths, part by part, as code points compare.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from lorica.data.findings import Findings, listing
from lorica.data.sources.files import SUPPORTED, UNREAD, File, choose

NEAREST = 3


def find_local(path: str, findings: Findings) -> list[File]:
    """The files that a path means.

    Raises:
        ValueError: there are none, or it is something that no rows can be read from.
        OSError: the machine refuses to say.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        inside = sorted(_inside(place), key=lambda file: file.parts)
        for odd in (file for file in inside if not file.is_file()):
            findings.add(UNREAD, str(odd), f"It lies in {path}, but is no regular file, or a link that leads nowhere.")
        return choose(path, [_file(file) for file in inside if file.is_file()], findings)
    if not place.exists() and glob.has_magic(path):
        return _matching(path, findings)
    _check_file(path, place)
    if not (file := _file(place)).kind:
        raise ValueError(f"Cannot tell how to read {path}: its name ends in none of {SUPPORTED}.")
    return [file]


def _file(path: Path) -> File:
    return File(str(path), lambda: path.open("rb"))


def _inside(folder: Path) -> Iterator[Path]:
    """All files, but none that is hidden or in a hidden folder; links to folders are not followed."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


def _matching(pattern: str, findings: Findings) -> list[File]:
    found = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    paths = sorted((path for path in map(Path, found) if path.is_file()), key=lambda file: file.parts)
    if not paths:
        start = Path(glob.escape(pattern) if not glob.has_magic(pattern) else pattern.partition("*")[0])
        raise ValueError(f"No file matches the pattern {pattern}.{_neighbours(start)} {_where(start)}")
    return choose(pattern, list(map(_file, paths)), findings)


def _check_file(path: str, place: Path) -> None:
    if not place.exists():
        raise ValueError(f"The data file {path} does not exist.{_neighbours(place)} Check `data.path`. {_where(place)}")
    mode = place.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ValueError(f"{path} is {what}; rows are read more than once. Write them to a file first.")


def _where(place: Path) -> str:
    return f"Relative paths start at {Path.cwd()}." if not place.is_absolute() else f"It is looked for as {place}."


def _neighbours(place: Path) -> str:
    """What there is instead: the names nearest to the first part of a path that does not exist."""
    place = place.expanduser()
    missing = place
    while not missing.parent.is_dir() and missing != missing.parent:
        missing = missing.parent
    if not missing.parent.is_dir():
        return ""
    names = sorted(path.name for path in missing.parent.iterdir() if not path.name.startswith("."))
    near = get_close_matches(missing.name, names, n=NEAREST, cutoff=0.6)
    if near:
        return f" Did you mean {' or '.join(str(missing.parent / name) for name in near)}?"
    return f" {missing.parent.resolve()} holds {listing(names)}." if names else f" {missing.parent.resolve()} is empty."
