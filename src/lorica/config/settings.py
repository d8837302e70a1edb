"""What somebody gave, by dotted key, with the place it was written. Shorthands and second names end here."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from lorica.config.errors import Problem, shown
from lorica.config.hints import unknown_key
from lorica.config.reading import Document, KeyPath, dotted
from lorica.config.schema import ALTERNATIVE_NAMES, LEAVES, SECTIONS, path_as_section


@dataclass(frozen=True, slots=True)
class Setting:
    """One given value: the key as it was spelt, where its value stands, and the origin shown to the user."""

    value: Any
    spelt: str
    place: str
    origin: str


Settings = dict[str, Setting]


def plain(value: Any) -> Any:
    """Values as a file could hold them: paths as text, tuples and sets as lists, sections as mappings."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, BaseModel):
        return plain(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return [plain(child) for child in value] if isinstance(value, list | tuple) else value


def flatten(document: Document) -> tuple[Settings, list[Problem]]:
    """The settings of a document by dotted key, and what is wrong with its keys."""
    settings: Settings = {}
    problems = list(document.problems)
    for path, value in _entries(document, problems):
        spelt = dotted(path)
        key = ALTERNATIVE_NAMES.get(spelt, spelt)
        place = _place(document.key_places, path, document)
        if key not in LEAVES or len(path) != (2 if "." in key else 1):
            problems.append(Problem(place, spelt, unknown_key(spelt)))
        elif key in settings:
            message = f"another name of {settings[key].spelt}, which is given too; keep one"
            problems.append(Problem(place, spelt, message))
        else:
            settings[key] = Setting(value, spelt, _place(document.value_places, path, document), _origin(place))
    return settings, problems


def _entries(document: Document, problems: list[Problem]) -> list[tuple[KeyPath, Any]]:
    """The entries of all sections and of the top level, by path; a section that is none is a fault."""
    entries: list[tuple[KeyPath, Any]] = []
    for name, given in document.values.items():
        section = path_as_section(given) if name in ("model", "data") else given
        if name not in SECTIONS:
            entries.append(((name,), given))
        elif isinstance(section, dict):
            entries += [((name, key), value) for key, value in section.items()]
        elif section is not None:
            message = (
                f"a single value, {shown(given)}; expected a mapping such as `{name}: {{{_first_key(name)}: ...}}`"
            )
            problems.append(Problem(_place(document.value_places, (name,), document), name, message))
    return entries


def _first_key(section: str) -> str:
    return next(iter(SECTIONS[section].model_fields))


def _place(places: Mapping[KeyPath, str], path: KeyPath, document: Document) -> str:
    """Where a key or value stands; those of the shorthand `model: PATH` stand at `model`."""
    return places.get(path) or places.get(path[:1]) or document.name


def _origin(place: str) -> str:
    """folder/config.yaml:3:7 as config.yaml:3."""
    return re.sub(r":(\d+):\d+$", r":\1", os.path.basename(place))


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.lr": 0.1, "out": "x"} as {"train": {"lr": 0.1}, "out": "x"}."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested
