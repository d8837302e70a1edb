"""Files of rows: what kind each is, by its name, and which files of a folder or pattern are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from lorica.data.findings import Findings, listing
from lorica.data.sources.compressed import COMPRESSIONS, kind_of

KINDS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".txt": "text", ".md": "text",
}  # fmt: skip
SUPPORTED = (
    f"{', '.join(KINDS)}, all but Parquet and Arrow also compressed ({', '.join(COMPRESSIONS)}); folders and patterns "
    "of these"
)
SPLITS = {
    "train": "train", "training": "train", "trainset": "train", "test": "test", "testset": "test",
    "validation": "validation", "validate": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "devset": "validation", "eval": "validation",
}  # fmt: skip
NOT_ROWS = ("readme", "license", "licence", "notice", "changelog", "citation", "source")
UNREAD = "file is not read"


@dataclass(frozen=True, slots=True)
class File:
    """One file: its name, as places and messages show it, and how to open its bytes (unpacked by the reader)."""

    name: str
    open: Callable[[], AbstractContextManager[BinaryIO]]

    @property
    def kind(self) -> str:
        """Which reader it needs; empty where its name does not say."""
        return KINDS.get(kind_of(self.name)[0], "")


def choose(where: str, files: Sequence[File], findings: Findings) -> list[File]:
    """Those of a folder's or pattern's files that hold rows; each of the others is a finding.

    Text files count only where there is nothing else, and files about the set (README, LICENSE) never.

    Raises:
        ValueError: there are none, or files of several kinds or splits, of which one has to be named.
    """
    rows = [file for file in files if file.kind and _stem(file) not in NOT_ROWS]
    chosen = [file for file in rows if file.kind != "text"] or rows
    if not chosen:
        found = f"It holds {listing([file.name for file in files])}" if files else "It is empty"
        raise ValueError(f"{where} holds no files of rows. {found}; supported are {SUPPORTED}.")
    _refuse_several(where, chosen)
    for file in files:
        if file not in chosen:
            findings.add(UNREAD, file.name, f"It lies in {where}, but not among the rows: {chosen[0].name} and so on.")
    return chosen


def _refuse_several(where: str, files: list[File]) -> None:
    kinds = Counter(kind_of(file.name)[0] for file in files)
    if len({file.kind for file in files}) > 1:
        counted = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        raise ValueError(
            f"{where} holds files of several kinds ({counted}). Say which with a pattern such as "
            f"'{_folder(where)}/*{min(kinds)}', or list the files, each a source of its own."
        )
    named = {file.name: split for file in files if (split := _split(file, files))}
    splits = sorted(set(named.values()))
    if len(splits) > 1:
        example = next(name for name, split in named.items() if split == ("train" if "train" in splits else splits[0]))
        raise ValueError(
            f"{where} holds files of several splits ({', '.join(splits)}), and training on all of them would "
            f"spoil the measurement. Name those to train on, for example {example}, and the others with "
            "evaluate.held_out."
        )


def _split(file: File, files: list[File]) -> str | None:
    """The split that a file's name has as a word, or its folder's where there are several folders.

    As in "train-00000-of-00002.parquet" or "test/0.jsonl".
    """
    folders = {PurePosixPath(file.name).parent for file in files}
    own = PurePosixPath(file.name).parent.name.lower() if len(folders) > 1 else ""
    words = re.split(r"[^a-z]+", f"{_stem(file)} {own}")
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _stem(file: File) -> str:
    return PurePosixPath(file.name).name.lower().partition(".")[0]


def _folder(where: str) -> str:
    return where.rstrip("/") if not any(mark in where for mark in "*?[") else str(PurePosixPath(where).parent)
