"""Rows through the `datasets` library: data sets of the hub, and those that it saved in a folder.

They come from its Arrow files, some at a time, so memory does not grow with them; a data set of the hub is downloaded
once and then read without the network. Places are "name:row", counted from 1 within the split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorica.config.data_section import SourceConfig
from lorica.data.faults import Faults
from lorica.data.sources.arrow import check_columns, rows_of_batch
from lorica.data.sources.compressed import kind_of
from lorica.data.sources.files import KINDS
from lorica.data.sources.row import Row

if TYPE_CHECKING:
    from datasets import Dataset

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SAVED = ("dataset_dict.json", "state.json")
BATCH = 256
DEFAULT_SPLIT = "train"


def is_hub_id(path: str) -> bool:
    """Whether a path that leads to nothing here may be a data set's id: owner/name, no file's name, no folder here."""
    named_as_file = kind_of(path)[0] in KINDS
    return HUB_ID.fullmatch(path) is not None and not named_as_file and not Path(path).parent.exists()


def is_saved(path: str) -> bool:
    """Whether `datasets` has saved a data set here."""
    return any((Path(path).expanduser() / name).is_file() for name in SAVED)


def read_hub(source: SourceConfig, faults: Faults) -> Iterator[Row]:
    """The rows of one split of a data set of the hub.

    Raises:
        ValueError: it cannot be had, or has several configurations or splits, none of which is named.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = load_dataset(source.path, source.name, revision=source.revision)  # whole: it prepares all splits anyway
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"{source.path} is no file or folder here, and could not be had from the hub ({reason[:400]}). Check the "
            "spelling, the network, data.name and data.split, and for gated sets that you are logged in (hf auth "
            "login)."
        ) from error
    yield from _rows(source.path, found[_split(source, list(found))], faults)


def read_saved(source: SourceConfig, faults: Faults) -> Iterator[Row]:
    """The rows of a data set, or of one split of several, that `Dataset.save_to_disk` wrote.

    Raises:
        ValueError: a file of it is missing or damaged, or no split is named of several.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(Path(source.path).expanduser()))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{source.path} is not a whole saved data set ({error}). Save it again.") from error
    if isinstance(data, DatasetDict):
        data = data[_split(source, list(data))]
    elif source.split is not None:
        raise ValueError(f"data.split is {source.split}, but {source.path} is one split alone; leave it out.")
    yield from _rows(source.path, data, faults)


def _split(source: SourceConfig, splits: list[str]) -> str:
    wanted = source.split or (DEFAULT_SPLIT if DEFAULT_SPLIT in splits or len(splits) != 1 else splits[0])
    if wanted not in splits:
        raise ValueError(f"{source.path} has no split {wanted!r}; name one of {', '.join(splits)} with data.split.")
    return wanted


def _rows(name: str, data: Dataset, faults: Faults) -> Iterator[Row]:
    check_columns(name, data.column_names)
    first = 1
    tables: Any = data.with_format("arrow").iter(BATCH)  # as stored: images, say, are not decoded
    for table in tables:
        yield from rows_of_batch(name, first, table, faults)
        first += table.num_rows
