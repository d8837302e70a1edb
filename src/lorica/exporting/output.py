"""An export's folder is whole or not there: written aside, proven, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorica.files import sync_folder
from lorica.units import shown_bytes

MARK = "export.json"


def check_output(out: Path, overwrite: bool) -> None:
    """Raises ValueError if something stands where the export should go, unless it is an export to be overwritten."""
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} exists already; give another --out, or --overwrite to replace an earlier export.")
    if not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} is not an export of Lorica's (no {MARK}), so it is not overwritten; give another --out."
        )


def check_space(folder: Path, needed: int) -> None:
    """Raises ValueError if the disk under `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise ValueError(
            f"the export takes {shown_bytes(needed)}, and there is {shown_bytes(free)} free on the disk; "
            "free some, or give an --out on another disk."
        )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


@contextmanager
def written_aside(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `out`, or beside what that links to; it takes its name when the block ends, and is removed
    when it fails.

    Raises ValueError as `check_output`, OSError if the folder cannot be written.
    """
    out = out.resolve()
    check_output(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        _put_in_place(aside, out, overwrite)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(out.parent)


def _put_in_place(aside: Path, out: Path, overwrite: bool) -> None:
    check_output(out, overwrite)
    before = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(before)
    try:
        aside.rename(out)
    except OSError:
        if before.exists():
            before.rename(out)
        raise
    shutil.rmtree(before, ignore_errors=True)
