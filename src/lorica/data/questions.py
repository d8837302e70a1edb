"""What a chat template asks of the texts it renders: the reason why a layout learned once holds for other texts.

A template is a program, and a text can change its course only through what it asks of the text: is this in it, how
long is it, what is it without the white space around it. Here a template is compiled so that every operation of Jinja
that looks at a text is noted while a twin is rendered, whose texts are marks (`marks.py`): the operation, its
arguments, its answer. Texts for which each of these operations gives the noted answer, with the texts in place of their
marks, take the template the same way, so it writes the twin's rendering with the texts in place of their marks.

Joining texts, assigning them, writing them and asking whether they are empty are no questions: marks stand for texts
that are not empty, and joined marks for joined texts. What cannot be answered by another text (a loop over the
characters of a text, a text as a key) is `Unforeseen`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from functools import wraps
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from lorica.data.marks import Filling, Text, core_of, filling, marked, whole_marks
from lorica.data.sandbox import SCOPES, Sandbox
from lorica.data.template import REFUSALS

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lteq": operator.le, "gt": operator.gt,
    "gteq": operator.ge, "in": lambda part, whole: part in whole, "notin": lambda part, whole: part not in whole,
}  # fmt: skip
# Tests of the type of a value, which is that of its twin.
TYPE_TESTS = {"boolean", "callable", "defined", "false", "filter", "float", "integer", "iterable", "mapping", "none",
              "number", "sequence", "string", "test", "true", "undefined"}  # fmt: skip
# Filters that arrange what is in a list or mapping without looking at it, or hand it to other filters and tests.
ARRANGING = {"count", "first", "items", "last", "length", "list", "map", "reject", "rejectattr", "reverse", "select",
             "selectattr"}  # fmt: skip
PASSING = {"d", "default"}  # give what they are given, after asking only whether it is there
ESCAPING = {"e", "escape", "forceescape", "safe", "urlize", "xmlattr"}  # make text that escapes what it is joined to
SETTLED = {str, dict, list, bool, int, type(None)}
STRIPPING = {"trim", "strip"}  # a text's mark without its white space is its core's, by definition
SLICED, COMPARED, MEASURED, ITERATED, WRITTEN, KEYED = "slice", "compare", "measure", "iterate", "write", "key"


class Unforeseen(ValueError):
    """The template does something with a text whose outcome for another text cannot be told."""


@dataclass(frozen=True, slots=True)
class Question:
    """An operation on marks and its answer, to be filled with texts."""

    operation: Callable[..., Any]
    arguments: list[Filling]
    keywords: dict[str, Filling]
    answer: Filling

    def same(self, texts: Sequence[Text]) -> bool:
        """Whether the texts give the answer that their marks gave."""
        arguments = [argument(texts) for argument in self.arguments]
        keywords = {key: value(texts) for key, value in self.keywords.items()}
        try:
            return bool(self.operation(*arguments, **keywords) == self.answer(texts))
        except REFUSALS:
            return False


class Asked(Sandbox):
    """Compiles templates that note in `questions` what they ask; `unforeseen` is True once anything was Unforeseen."""

    intercepted_binops = frozenset("%")

    def __init__(self, original: Environment) -> None:
        super().__init__(original)
        self.questions: dict[str, Question] = {}
        self.unforeseen = False
        self.filters = {name: self._watched_filter(name, run) for name, run in original.filters.items()}
        tests: dict[str, Any] = original.tests
        self.tests = {name: run if name in TYPE_TESTS else self._noted(name, run) for name, run in tests.items()}
        self.filters |= {f"noted {name}": run for name, run in (
            (SLICED, self._slice), (COMPARED, self._compare), (MEASURED, self._measure), (ITERATED, self._iterate),
            (WRITTEN, self._write), (KEYED, self._key),
        )}  # fmt: skip

    def compile_asking(self, source: str) -> Template:
        """The template, noting what it asks."""
        return self.from_string(_Rewriter().visit(self.parse(source)))

    def ask(self, name: str, operation: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """The answer to an operation on marks, noted."""
        try:
            answer = operation(*arguments, **keywords)
        except REFUSALS as error:  # another text may not raise it
            raise self._cannot_tell(name) from error
        if not _plain(answer) or not whole_marks([answer, arguments, keywords]):
            raise self._cannot_tell(name)
        if name in STRIPPING and not keywords and [answer] == [core_of(argument) for argument in arguments]:
            return answer
        key = repr((name, arguments, keywords))
        if key not in self.questions:
            named = {key: filling(value) for key, value in keywords.items()}
            self.questions[key] = Question(operation, [*map(filling, arguments)], named, filling(answer))
        return answer

    def call(self, context: Context, called: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(called, "__self__", None)
        args = tuple(map(_settled, args))
        given = {key: _settled(value) for key, value in kwargs.items() if key not in SCOPES}
        if marked(owner) or marked(args) or marked(given):
            if isinstance(owner, str) and self.is_safe_callable(called):
                method = getattr(str, called.__name__, None)
                if method is None or not _all_plain(args, given):
                    raise self._cannot_tell(called)
                return self.ask(called.__name__, method, owner, *args, **given)
            if not self._passes_on(called, owner, args):
                raise self._cannot_tell(called)
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if marked(left) or marked(right):
            return self.ask(operator, self.binop_table[operator], left, right)
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, str) and marked(obj):
            return self.ask("item", operator.getitem, obj, argument)
        if type(argument) is not str or not argument.isascii():
            self._key(argument)
        return super().getitem(obj, argument)

    def _passes_on(self, called: Any, owner: Any, args: tuple[Any, ...]) -> bool:
        """Whether a call only hands its arguments on: to the template's own code, or into a mapping."""
        if isinstance(called, LoopContext):
            return not any(isinstance(argument, str) for argument in args)
        if isinstance(owner, Mapping):
            return not any(map(marked, args))
        into_mapping = called is self.globals.get("dict") or (
            isinstance(called, type) and issubclass(called, Namespace)
        )
        return isinstance(called, Macro) or (into_mapping and not any(map(marked, args)))

    def _watched_filter(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        if name in ESCAPING:
            return self._escape
        return run if name in PASSING else self._noted(name, run, name in ARRANGING)

    def _noted(self, name: str, run: Callable[..., Any], arranging: bool = False) -> Callable[..., Any]:
        """A filter or test that notes what it is asked, where its arguments have marks."""
        passed = hasattr(run, "jinja_pass_arg")  # the context, say, comes before the arguments

        @wraps(run)
        def noted(*arguments: Any, **keywords: Any) -> Any:
            first, rest = arguments[:passed], arguments[passed:]
            if not keywords and all(type(it) is str and it.isascii() for it in rest):
                return run(*arguments)
            rest = rest if arranging else tuple(map(_settled, rest))
            direct = any(isinstance(it, str) and marked(it) for it in (*rest, *keywords.values()))
            if not (direct or (not arranging and (marked(rest) or marked(keywords)))):
                return run(*first, *rest, **keywords)
            if not _all_plain(rest, keywords):
                raise self._cannot_tell(name)
            return self.ask(name, lambda *given, **named: run(*first, *given, **named), *rest, **keywords)

        return noted

    def _compare(self, left: Any, operation: str, right: Any) -> Any:
        if type(left) is str and type(right) is str and left.isascii() and right.isascii():  # as most are
            return COMPARISONS[operation](left, right)
        left, right = _settled(left), _settled(right)
        in_mapping = operation in ("in", "notin") and isinstance(right, Mapping)
        if marked(left) or marked([*right] if in_mapping else right):  # the values of a mapping are not looked at
            return self.ask(operation, COMPARISONS[operation], left, right)
        return COMPARISONS[operation](left, right)

    def _measure(self, value: Any, operation: str, bound: Any) -> Any:
        """A length that is compared: one question, so that all texts longer than the bound give one answer."""
        if isinstance(value, str) and marked(value):
            return self.ask(f"length {operation}", _measured, value, operation, bound)
        return COMPARISONS[operation](len(value), bound)

    def _slice(self, value: Any, *bounds: Any) -> Any:
        if isinstance(value, str) and marked(value):
            return self.ask("slice", _sliced, value, *bounds)
        return value[slice(*bounds)]

    def _iterate(self, value: Any) -> Any:
        if isinstance(value, str) and marked(value):
            raise self._cannot_tell("a loop over a text")
        return value

    def _write(self, value: Any) -> Any:
        if not isinstance(value, str) and marked(value):
            raise self._cannot_tell("a list or mapping as text")
        return value

    def _escape(self, *_: Any) -> Any:
        raise self._cannot_tell("escaping")

    def _key(self, value: Any) -> Any:
        if marked(value):
            raise self._cannot_tell("a text as key")
        return value

    def _cannot_tell(self, what: object) -> Unforeseen:
        self.unforeseen = True
        return Unforeseen(f"{what} of a text")


class _Rewriter(NodeTransformer):
    """Turns the operations that Jinja compiles to bare Python into filters, which can note them."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        self.generic_visit(node)
        *earlier, operand = node.ops
        if earlier:  # a < b < c is a < b and b < c
            first: nodes.Expr = self.visit_Compare(nodes.Compare(node.expr, earlier, lineno=node.lineno))
            last = self.visit_Compare(nodes.Compare(earlier[-1].expr, [operand], lineno=node.lineno))
            return nodes.And(first, last, lineno=node.lineno)
        if isinstance(node.expr, nodes.Filter) and node.expr.name in ("length", "count") and node.expr.node:
            return _filter(node.expr.node, MEASURED, nodes.Const(operand.op), operand.expr)
        return _filter(node.expr, COMPARED, nodes.Const(operand.op), operand.expr)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _filter(node.node, SLICED, *(bound or nodes.Const(None) for bound in bounds))

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, ITERATED)
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.target, nodes.Tuple):
            node.node = _filter(node.node, ITERATED)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [part if isinstance(part, nodes.TemplateData) else _filter(part, WRITTEN) for part in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filter(part, WRITTEN) for part in node.nodes]
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _filter(node.key, KEYED)
        return node


def _filter(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, f"noted {name}", list(arguments), [], None, None, lineno=node.lineno)


def _measured(value: str, operation: str, bound: Any) -> bool:
    return bool(COMPARISONS[operation](len(value), bound))


def _sliced(value: str, *bounds: int | None) -> str:
    return value[slice(*bounds)]


def _settled(value: Any) -> Any:
    """A list of what comes out of a generator or the view of a mapping, which may be marks."""
    if type(value) in SETTLED:  # most are, and the question below is dear
        return value
    return [*value] if isinstance(value, Iterator | KeysView | ValuesView | ItemsView) else value


def _plain(value: object) -> bool:
    """Whether this is data that can be compared, and no object that may change or is yet to be computed."""
    if isinstance(value, Mapping):
        return all(map(_plain, value)) and all(map(_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or type(value) in (str, bool, int, float)


def _all_plain(arguments: Iterable[object], keywords: Mapping[str, object]) -> bool:
    return all(map(_plain, arguments)) and all(map(_plain, keywords.values()))
