"""From what was given to the whole configuration: checked, completed with defaults, and every value with its origin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorica.config.describe import allowed
from lorica.config.errors import ConfigError, Problem, shown
from lorica.config.hints import about_value
from lorica.config.overrides import read_overrides
from lorica.config.reading import Document, read_file
from lorica.config.rules import RULES, is_use
from lorica.config.schema import LEAVES, SECTIONS, LoraConfig, RunConfig, value_of
from lorica.config.settings import Setting, Settings, flatten, nest, plain

DEFAULT = "default"
REQUIRED = {
    "model.path": "required and not given; add `model: PATH`, a directory or hub id, or --model PATH",
    "data.path": "required and not given; add `data: ROWS.jsonl`, or --data ROWS.jsonl",
}


@dataclass(frozen=True)
class Resolved:
    """A checked configuration, and the origin of every setting by dotted key.

    An origin is "default", "config.yaml:3", "command line", "Python" or "derived: why".
    """

    config: RunConfig
    origins: Mapping[str, str]

    def given(self, key: str) -> bool:
        """Whether somebody or something chose this setting, rather than its default."""
        return self.origins[key] != DEFAULT


def load(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    values_origin: str = "Python",
) -> Resolved:
    """Read a configuration; later sources win, setting by setting: file, `values`, `overrides`.

    `path` is a YAML or JSON file; `values` is a mapping shaped like the file, whose settings get the origin
    `values_origin`; `overrides` are texts "section.key=value". Raises ConfigError, a ValueError that lists every
    problem found with its place.
    """
    settings: Settings = {}
    problems: list[Problem] = []
    sources = [flatten(read_file(path))] if path is not None else []
    sources.append(flatten(Document(values_origin, plain(values or {}))))
    sources.append(read_overrides(overrides))
    for given, faults in sources:
        settings |= given
        problems += faults
    return resolve(settings, problems, source=str(path or values_origin))


def lora_config(**values: Any) -> LoraConfig:
    """An adapter's settings from keyword arguments, in PEFT's names, checked as a file would be. Raises ConfigError."""
    model = {"path": "-", "weights": "nf4"}  # stands in for one that allows every start
    return load(values={"model": model, "data": "-", "lora": values}).config.lora


def override(resolved: Resolved, overrides: Sequence[str]) -> Resolved:
    """A copy with other settings, given as "section.key=value". Raises ConfigError where they are not allowed."""
    given, faults = read_overrides(overrides)
    return resolve(_chosen(resolved) | given, faults, source="command line")


def derive(resolved: Resolved, key: str, value: Any, reason: str) -> Resolved:
    """A copy in which the run filled in a setting, such as `train.lr` for auto, with the reason as its origin.

    Raises ConfigError where the value is not allowed or the setting has no effect.
    """
    assert key in LEAVES, f"no setting {key}"
    origin = f"derived: {' '.join(reason.split())}"
    return resolve(_chosen(resolved) | {key: Setting(plain(value), key, origin, origin)})


def _chosen(resolved: Resolved) -> Settings:
    """The settings that are not defaults."""
    return {
        name: Setting(plain(value_of(resolved.config, name)), name, origin, origin)
        for name, origin in resolved.origins.items()
        if origin != DEFAULT
    }


def resolve(settings: Settings, problems: Sequence[Problem] = (), source: str = "") -> Resolved:
    """The configuration that the settings ask for. ConfigError with `problems` and all that is found here."""
    faults = _value_faults(settings, source)
    sound = {key: setting for key, setting in settings.items() if key not in faults}
    # The rules are checked on the sound part, so that one report holds everything; stand-ins complete it.
    values = {key: "-" for key in faults if key in REQUIRED} | {key: item.value for key, item in sound.items()}
    config = RunConfig.model_validate(nest(values))
    found = [*problems, *faults.values(), *_rule_faults(config, sound, faults)]
    if found:
        raise ConfigError(sorted(found, key=lambda problem: _reading_order(problem, source)))
    origins = {key: settings[key].origin if key in settings else DEFAULT for key in LEAVES}
    return Resolved(config, origins)


def result_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide the result, as plain values for a receipt: all but `system` and `out`."""
    return config.model_dump(mode="json", exclude={"system", "out"})


def _value_faults(settings: Settings, source: str) -> dict[str, Problem]:
    """The settings whose values are not allowed, and the required ones that are missing."""
    try:
        RunConfig.model_validate(nest({key: setting.value for key, setting in settings.items()}))
    except ValidationError as error:
        keys = dict.fromkeys(_key(detail["loc"]) for detail in error.errors(include_url=False, include_input=False))
        return {key: _value_fault(key, settings.get(key), source) for key in keys}
    return {}


def _key(location: tuple[str | int, ...]) -> str:
    """Pydantic's location as a dotted key: a missing section is missing its path; deeper parts name union branches."""
    if location[0] not in SECTIONS:
        return str(location[0])
    return f"{location[0]}.{location[1]}" if len(location) > 1 else f"{location[0]}.path"


def _value_fault(key: str, setting: Setting | None, source: str) -> Problem:
    if setting is None:
        return Problem(source, key.removesuffix(".path"), REQUIRED[key])
    message = f"got {shown(setting.value)}; allowed: {allowed(key)}{about_value(key, setting.value)}"
    return Problem(setting.place, setting.spelt, message)


def _rule_faults(config: RunConfig, settings: Settings, faults: Mapping[str, Problem]) -> list[Problem]:
    """What the rules refuse; a rule that reads a faulty setting waits until that is mended."""
    found: dict[str, Problem] = {}
    for rule in RULES:
        if any(key in faults for key in rule.reads) or not rule.applies(config):
            continue
        given = [key for key in rule.unused or rule.reads if key in settings and is_use(config, key)]
        for key in given if rule.unused else given[:1]:
            found.setdefault(key, Problem(settings[key].place, settings[key].spelt, rule.message))
    return list(found.values())


def _reading_order(problem: Problem, source: str) -> tuple[bool, list[int]]:
    """The file's problems first, in the order of its lines."""
    return not problem.place.startswith(source), [int(part) for part in re.findall(r":(\d+)", problem.place)]
