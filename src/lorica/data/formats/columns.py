"""A mapping from the fields of a format to the columns of a row: plain names, or Jinja expressions over the columns.

Expressions run in Jinja's sandbox, and one that names a column that a row lacks is an error. `row["its name"]` is a
column whose name is no identifier. One whole `{{ ... }}` gives its value (a list of messages, a number), anything else
gives text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorica.data.faults import RowError
from lorica.data.sources.row import Row

EXPRESSION = re.compile(r"\{\{((?:(?!\}\}|\{\{).)*)\}\}", re.DOTALL)
ROW = "row"
VALUES = ("input_ids", "labels", "attention_mask", "label", "weight", "train", "tools", "history")


class Columns:
    """Applies a mapping to rows. A column that the mapping uses is no field of its own any more; the others stay.

    Raises:
        ValueError: an expression is not valid Jinja.
    """

    def __init__(self, mapping: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        self._makers: dict[str, Callable[[Row], Any]] = {}
        self.used: set[str] = set()
        for field, text in mapping.items():
            if "{{" in text or "{%" in text:
                self._makers[field] = _expression(environment, field, text)
                self.used |= _columns(environment.parse(text))
            else:
                self._makers[field] = _column(field, text)
                self.used.add(text)

    def __call__(self, row: Row) -> Row:
        """The row with the mapped fields.

        Raises:
            RowError: a column is missing, or an expression fails.
        """
        if not self._makers:
            return row
        made = {field: make(row) for field, make in self._makers.items()}
        rest = {key: value for key, value in row.values.items() if key not in self.used and key not in made}
        return Row(row.source, {key: value for key, value in made.items() if value is not None} | rest)

    def replaced(self, row: Row) -> list[str]:
        """Columns that the mapping gives other values, though it does not use them."""
        return [key for key in row.values if key in self._makers and key not in self.used]


def _columns(template: nodes.Template) -> set[str]:
    """The columns that an expression names."""
    quoted = (item.arg for item in template.find_all(nodes.Getitem) if getattr(item.node, "name", None) == ROW)
    return meta.find_undeclared_variables(template) | {str(arg.value) for arg in quoted if isinstance(arg, nodes.Const)}


def _column(field: str, name: str) -> Callable[[Row], Any]:
    def take(row: Row) -> Any:
        if name not in row.values:
            near = get_close_matches(name, row.values, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RowError(
                f"{row.source}: data.columns takes {field!r} from the column {name!r}, which this row does not have. "
                f"It has {', '.join(row.values) or '(none)'}.{hint}"
            )
        return row.values[name]

    return take


def _expression(environment: ImmutableSandboxedEnvironment, field: str, text: str) -> Callable[[Row], Any]:
    whole = EXPRESSION.fullmatch(text.strip())
    try:
        template = environment.from_string(text)
        value = environment.compile_expression(whole[1], undefined_to_none=False) if whole else None
    except TemplateError as error:
        raise ValueError(f"data.columns: {field!r} is no valid Jinja expression: {text!r}: {error}") from error

    def make(row: Row) -> Any:
        columns = {ROW: row.values} | row.values
        try:
            made = value(columns) if value is not None else None
            if isinstance(made, list | dict) or (made is not None and field in VALUES and not is_undefined(made)):
                return made
            return template.render(columns)
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise RowError(f"{row.source}: data.columns cannot make {field!r} of {text!r}: {error}") from error

    return make


def is_undefined(value: object) -> bool:
    return isinstance(value, StrictUndefined)
