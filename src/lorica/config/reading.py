"""Reads a YAML or JSON file into plain values, and remembers the line and column of each.

PyYAML follows YAML 1.1, where `3e-4` is text, `no` is false, `010` is eight and `1:30` is ninety. Here the plain
scalars follow YAML 1.2's core schema instead. Anchors and tags are refused: a configuration says each value where it
stands.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorica.config.errors import ConfigError, Problem

KeyPath = tuple[str | int, ...]
TAG = "tag:yaml.org,2002:"
DEEPEST = 12
PLAIN_SCALARS = {
    "null": (re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    # Python refuses to convert thousands of digits; more than 40 are no setting, and read as a float.
    "int": (re.compile(r"[-+]?[0-9]{1,40}$"), list("-+0123456789")),
    "float": (
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN))$"
        ),
        list("-+.0123456789"),
    ),
}
READABLE_TAGS = {*PLAIN_SCALARS, "str", "map", "seq"}
Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def _resolvers() -> Resolvers:
    """PyYAML's table of plain scalars, by first character; the first match wins, so int stands before float."""
    table: Resolvers = {}
    for name, (pattern, first_characters) in PLAIN_SCALARS.items():
        for character in first_characters:
            table.setdefault(character, []).append((TAG + name, pattern))
    return table


CORE_RESOLVERS = _resolvers()


class CoreLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain scalars, no anchors, and a limit on depth."""

    yaml_implicit_resolvers = CORE_RESOLVERS
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="an anchor or alias; write the value", problem_mark=event.start_mark)
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} deep", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class CoreDumper(yaml.SafeDumper):
    """SafeDumper that quotes what `CoreLoader` would not read back as text."""

    yaml_implicit_resolvers = CORE_RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar(TAG + "str", text, style=None if text.isprintable() else '"')


CoreDumper.add_representer(str, CoreDumper.represent_text)


@dataclass
class Document:
    """Plain values of one source, the place of each (of a mapping's entry: of its key and of its value), and faults."""

    name: str
    values: Any = None
    key_places: dict[KeyPath, str] = field(default_factory=dict)
    value_places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, mark: yaml.Mark) -> str:
        return f"{self.name}:{mark.line + 1}:{mark.column + 1}"


def read_file(path: str | Path) -> Document:
    """Read a configuration file: YAML, or JSON when its name ends in `.json`. ConfigError when that is not possible."""
    name = str(path)
    text = _text(Path(path))
    if Path(path).suffix.lower() == ".json":
        return _checked(_json_document(text, name))
    return _checked(parse(text, name))


def _checked(document: Document) -> Document:
    if not isinstance(document.values, dict):
        message = f"{_kind(document.values)}; expected settings such as `model: PATH` and `data: ROWS.jsonl`"
        raise _refusal(document.name, message)
    return document


def parse(text: str, name: str) -> Document:
    """Parse YAML text; `name` stands for it in the places. ConfigError where the syntax is wrong."""
    document = Document(name)
    try:
        node = CoreLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, document)]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"has a character that YAML does not allow, U+{ord(text[error.position]):04X}"
        raise _refusal(f"{name}:{line}", message) from error
    document.values = _value(node, (), document) if node is not None else None
    return document


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise _refusal(str(path), "does not exist; give the path of a configuration, or --model and --data") from error
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}); save it as UTF-8"
        raise _refusal(str(path), message) from error
    except (OSError, ValueError) as error:
        raise _refusal(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _json_document(text: str, name: str) -> Document:
    """The values by JSON's own reader, since YAML's does not join escaped surrogate pairs; the places by YAML's."""
    try:
        values = json.loads(text) if text.strip() else None
    except json.JSONDecodeError as error:
        problem = Problem(f"{name}:{error.lineno}:{error.colno}", "", f"is not JSON: {error.msg}")
        raise ConfigError([problem]) from error
    except (RecursionError, ValueError) as error:
        raise _refusal(name, f"cannot be read: {error}") from error
    # JSON allows tabs between tokens and nowhere else; YAML refuses them there.
    document = parse(text.replace("\t", " "), name)
    document.values = values
    return document


def _refusal(name: str, message: str) -> ConfigError:
    return ConfigError([Problem(name, "", message)])


def _syntax_problem(error: yaml.MarkedYAMLError, document: Document) -> Problem:
    mark = error.problem_mark or error.context_mark
    found = error.problem or error.context or "not YAML"
    if "'\\t'" in found:
        found = "a tab; YAML is indented with spaces"
    elif "mapping values are not allowed" in found:
        found = "a second colon on the line, or wrong indentation; put text that holds ': ' in quotes"
    context = f" ({error.context})" if error.context and error.context != found else ""
    return Problem(document.place(mark) if mark else document.name, "", f"cannot be read: {found}{context}")


def _kind(value: Any) -> str:
    if value is None:
        return "is empty"
    return "is a list, not a mapping" if isinstance(value, list) else "is a single value, not a mapping"


def _value(node: yaml.Node, path: KeyPath, document: Document) -> Any:
    document.value_places[path] = document.place(node.start_mark)
    if node.tag.removeprefix(TAG) not in READABLE_TAGS:
        document.problems.append(
            Problem(document.place(node.start_mark), dotted(path), f"the tag {node.tag} is not read")
        )
    if isinstance(node, yaml.MappingNode):
        return {key: _value(child, (*path, key), document) for key, child in _entries(node, path, document)}
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, index), document) for index, child in enumerate(node.value)]
    return _scalar(node.value, node.tag.removeprefix(TAG))


def _entries(node: yaml.MappingNode, path: KeyPath, document: Document) -> Iterator[tuple[str, yaml.Node]]:
    """The entries of a mapping, each key once: a second one is a fault that names the line of the first."""
    first_lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        place = document.place(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append(Problem(place, dotted(path), "a list or mapping used as a key; keys are names"))
            continue
        key = key_node.value
        if key in first_lines:
            message = f"given twice, first on line {first_lines[key]}; keep one"
            document.problems.append(Problem(place, dotted((*path, key)), message))
            continue
        first_lines[key] = key_node.start_mark.line + 1
        document.key_places[*path, key] = place
        yield key, value_node


def _scalar(text: str, tag: str) -> bool | int | float | str | None:
    if tag not in PLAIN_SCALARS or not PLAIN_SCALARS[tag][0].match(text):
        return text
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    return int(text) if tag == "int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def dotted(path: KeyPath) -> str:
    """("lora", "target_modules", 0) as lora.target_modules[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
