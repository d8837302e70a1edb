"""Writes a resolved configuration as YAML that explains itself and reads back to the same configuration."""

from typing import Any

import yaml

from lorica.config.reading import CoreDumper
from lorica.config.resolve import Resolved
from lorica.config.rules import unused_settings
from lorica.config.schema import LEAVES, value_of
from lorica.config.settings import plain

HEADER = "# Every setting of the run, and where it came from.\n"


def to_yaml(resolved: Resolved) -> str:
    """The whole configuration, a setting a line with its origin as a comment; a setting without effect is a comment."""
    unused = unused_settings(resolved.config)
    lines = [HEADER]
    section = ""
    for key in LEAVES:
        here, _, name = key.rpartition(".")
        if here and here != section:
            lines.append(f"{here}:\n")
        section = here
        indent = "  " if here else ""
        if key in unused:
            lines.append(f"{indent}# {name} {unused[key].partition(';')[0]}\n")
        else:
            value = _on_one_line(value_of(resolved.config, key))
            lines.append(f"{indent}{name}: {value}  # {_comment(resolved.origins[key])}\n")
    return "".join(lines)


def _on_one_line(value: Any) -> str:
    text = yaml.dump(plain(value), Dumper=CoreDumper, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


def _comment(text: str) -> str:
    """Without what would end the comment or what YAML does not allow in one."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
