"""Jinja's sandbox as the server has it, with what takes most of a rendering done directly.

A template asks its messages for `message.role` and the like a dozen times each. Jinja looks for an attribute first,
which a dict does not have, raises, catches and then looks for the key; and it decides anew each time whether an
attribute is safe. Here keys of dicts and what namespaces and loops hold are taken at once, methods of texts, lists and
dicts are found and called at once, and each decision is kept: it depends only on the type and the name. Globals, which
each rendering copies, are a dict and no chain of them. A rendering takes half the time.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from types import BuiltinMethodType
from typing import Any

from jinja2 import Environment
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

METHODS = frozenset(dir(dict))
OF_LOOPS = {"index0", *(name for name, value in vars(LoopContext).items() if isinstance(value, property))}
PLAIN = {str, list, dict}
FORMATS = {"format", "format_map"}  # which Jinja wraps
SCOPES = ("_loop_vars", "_block_vars")  # which Jinja hands to every call inside a loop or block


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox `original`, with all its settings: it renders the same."""

    def __init__(self, original: Environment) -> None:
        vars(self).update(vars(original))
        self.extensions = {name: extension.bind(self) for name, extension in original.extensions.items()}
        self._safe: dict[tuple[type, str], bool] = {}
        self._namespace: Any = original.globals["namespace"]
        plain: list[Any] = ["", [], {}]
        self._methods = {
            (type(value), name)
            for value in plain
            for name in set(dir(value)) - FORMATS
            if self.is_safe_attribute(value, name, getattr(value, name))
        }

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict and attribute not in METHODS:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if kind is LoopContext and attribute in OF_LOOPS:
            return getattr(obj, attribute)
        if kind is self._namespace and not attribute.startswith("_"):
            held = object.__getattribute__(obj, "_Namespace__attrs")
            return held[attribute] if attribute in held else self.undefined(obj=obj, name=attribute)
        if (kind, attribute) in self._methods:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call(self, context: Context, called: Any, *args: Any, **kwargs: Any) -> Any:
        if called is self._namespace or (type(called) is BuiltinMethodType and type(called.__self__) in PLAIN):
            for scope in SCOPES:
                kwargs.pop(scope, None)
            return called(*args, **kwargs)
        return super().call(context, called, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        key = type(obj), attr
        if key not in self._safe:
            self._safe[key] = super().is_safe_attribute(obj, attr, value)
        return self._safe[key]


@cache
def served_environment() -> Sandbox:
    """The sandbox in which transformers renders chat templates."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return Sandbox(_compile_jinja_template("").environment)
