"""Settings given on the command line as section.key=value, the value written as in YAML."""

import re
from collections.abc import Sequence

from lorica.config.errors import ConfigError, Problem
from lorica.config.reading import Document, parse
from lorica.config.schema import LEAVES
from lorica.config.settings import Settings, flatten

COMMAND_LINE = "command line"


def read_overrides(overrides: Sequence[str]) -> tuple[Settings, list[Problem]]:
    """The settings that the overrides give, each key once, and what is wrong with them."""
    settings: Settings = {}
    problems: list[Problem] = []
    for override in overrides:
        try:
            given, faults = flatten(_document(override))
        except ConfigError as error:
            problems += error.problems
            continue
        problems += faults
        twice = [Problem(COMMAND_LINE, key, "given twice; keep one") for key in given if key in settings]
        problems += twice
        settings |= given
    return settings, problems


def _document(override: str) -> Document:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise _refusal(override, "expected section.key=value, such as train.lr=3e-4")
    if re.search(r"(?:^|\s)#", text) and not text.lstrip().startswith(("'", '"', "[", "{")):
        raise _refusal(key, f"{text!r} holds a #, which starts a comment in YAML; put the value in quotes")
    path = key.split(".")
    leaf = ".".join(path[:2])
    if len(path) > 2 and leaf in LEAVES:
        raise _refusal(key, f"{leaf} is given whole, such as {leaf}='{{{'.'.join(path[2:])}: {text}}}'")
    value = _parsed(key, text)
    document = Document(COMMAND_LINE, problems=value.problems)
    document.values = {path[0]: {".".join(path[1:]): value.values}} if len(path) > 1 else {key: value.values}
    return document


def _parsed(key: str, text: str) -> Document:
    try:
        document = parse(text, COMMAND_LINE)
    except ConfigError as error:
        raise _refusal(key, f"the value {text!r} {error.problems[0].message}") from error
    document.problems = [Problem(COMMAND_LINE, key, problem.message) for problem in document.problems]
    return document


def _refusal(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(COMMAND_LINE, key, message)])
