"""The renderings of a conversation's beginnings, from one rendering of the whole.

Turns are found in what a template writes of the messages before them and of those up to them (`turns.py`): rendered one
by one, that takes time that grows with the square of the messages. But a template that takes message after message, and
looks at none before its time, has behind message k written what it writes of any conversation that begins with the
first k messages. What it writes behind them all is the same each time, if nothing in it depends on them.

So the messages are given to the template as `Watched`, which notes how far it looks, and each round of its loop over
them ends with a mark in what it writes. Beginnings at whose end it had looked further (a tool result that asks whether
another follows) are rendered by themselves, and all of them where the template is built otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from jinja2 import Environment, Template, nodes

from lorica.data.messages import Conversation, Message
from lorica.data.sandbox import Sandbox, served_environment
from lorica.data.template import ChatTemplate

END = "\ue001"  # of a round of the loop over messages
ENTERED, ENDED, MEASURED = "watched loop", "watched round", "watched length"
EVERYTHING = 1 << 62  # further than any message
FEW = 4  # messages, for which it does not pay
GENERATE = "add_generation_prompt"
GIVEN = {"messages", "tools", "documents"}  # what differs between conversations


class Watched(Sequence[Message]):
    """Messages of a conversation from number `first` on. It is no list, so that nothing gets at them unnoticed."""

    def __init__(self, messages: list[Message], watch: _Watch, first: int = 0) -> None:
        self._messages, self._watch, self._first = messages, watch, first

    def number(self, index: int) -> int:
        """The number in its conversation of the message at `index`."""
        return self._first + index

    def __getitem__(self, index: Any) -> Any:
        if type(index) is int and 0 <= index < len(self._messages):
            self._watch.look(self._first + index)
        elif isinstance(index, slice) and index.stop is None and index.step is None and (index.start or 0) >= 0:
            return Watched(self._messages[index], self._watch, self._first + (index.start or 0))
        else:
            self._watch.look(EVERYTHING)
        return self._messages[index]

    def __len__(self) -> int:
        self._watch.look(EVERYTHING)
        return len(self._messages)

    def __bool__(self) -> bool:
        self._watch.look(self._first if self._messages else EVERYTHING)
        return bool(self._messages)

    def __eq__(self, other: object) -> bool:
        self._watch.look(EVERYTHING)
        return self._messages == (other._messages if isinstance(other, Watched) else other)

    def __repr__(self) -> str:
        self._watch.look(EVERYTHING)
        return repr(self._messages)


class _Watch(Sandbox):
    """Compiles templates that note how far they look at messages, and mark where the rounds of their last loop end.

    `told` are the lengths of the beginnings that are written at the marks.
    """

    def __init__(self, original: Environment) -> None:
        super().__init__(original)
        own = {ENTERED: self._enter, ENDED: self._end, MEASURED: self._measure}
        self.filters = {**original.filters, **own}
        self.told: list[int] = []
        self._looked = -1
        self._over: Watched | None = None

    def begin(self, messages: list[Message]) -> Any:
        """The messages, for one rendering."""
        self.told, self._looked, self._over = [], -1, None
        return Watched(messages, self)

    def look(self, number: int) -> None:
        """Notes a look at the message with this number."""
        self._looked = max(self._looked, number)

    def compile_watching(self, source: str) -> Template:
        """The template with marks; where what follows its last loop depends on the messages, one that is empty."""
        tree = self.parse(source)
        at = max((at for at, node in enumerate(tree.body) if isinstance(node, nodes.For)), default=-1)
        loop = tree.body[at] if at >= 0 else None
        if not isinstance(loop, nodes.For) or loop.test or loop.recursive or not _is_constant(tree, at + 1):
            return self.from_string("")  # to compile it would take longer than to find that out
        _compare_lengths(tree)
        round = nodes.Getattr(nodes.Name("loop", "load"), "index0", "load")
        loop.iter = nodes.Filter(loop.iter, ENTERED, [], [], None, None)
        loop.body.append(nodes.Output([nodes.Filter(round, ENDED, [], [], None, None)]))
        return self.from_string(tree)

    def _enter(self, over: Any) -> Any:
        self._over = over if isinstance(over, Watched) else None
        return over

    def _measure(self, value: Any, bound: int) -> int:
        """A length that is compared with `bound`; by how much it is longer makes no difference."""
        return bound + 1 if isinstance(value, Watched) and value[bound:] else len(value)

    def _end(self, round: int) -> str:
        """The mark, where no message behind that of this round was looked at."""
        if self._over is None or self._over.number(round) != self._looked:
            return ""
        self.told.append(self._looked + 1)
        return END


def _is_constant(tree: nodes.Template, at: int) -> bool:
    """Whether the template writes the same from `at` on for all beginnings, and only there asks for whom it writes."""
    stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    named = {name.name for node in tree.body[at:] for name in node.find_all(nodes.Name)}
    calls = any(node.find(nodes.Call) for node in tree.body[at:])
    asked = {name.name for node in tree.body[:at] for name in node.find_all(nodes.Name)}
    return not calls and named.isdisjoint(stored | GIVEN) and GENERATE not in asked


def _compare_lengths(tree: nodes.Template) -> None:
    """Where a length is compared with a number, only that has to be looked at."""
    for compared in tree.find_all(nodes.Compare):
        length, bound, alone = compared.expr, compared.ops[0].expr, len(compared.ops) == 1
        if not (isinstance(length, nodes.Filter) and isinstance(bound, nodes.Const) and alone):
            continue
        if length.name in ("length", "count") and type(bound.value) is int:
            length.name, length.args = MEASURED, [bound]


class Beginnings:
    """Renders as `template` does, and conversations' beginnings from the whole where it tells them."""

    def __init__(self, template: ChatTemplate) -> None:
        self.stops, self.specials, self.tokenizer = template.stops, template.specials, template.tokenizer
        self._template, self._watch = template, _Watch(served_environment())
        self._watched = template.compiled_by(self._watch.compile_watching)
        self._conversation: Conversation | None = None
        self._whole, self._ends = "", dict[int, int]()
        self._rests = dict[tuple[bool, bool, str], str]()  # behind the messages: with tools, to generate, variables
        self._hopeless = set[bool]()  # with tools or not, where the template tells nothing

    def render(self, conversation: Conversation, messages: list[Message], generate: bool = False) -> str:
        """As `ChatTemplate.render`."""
        ends, count = self.ends(conversation), len(messages)
        if count not in ends or messages[-1] is not conversation.messages[count - 1]:
            return self._template.render(conversation, messages, generate)
        begun = self._whole[: ends[count]]
        key = (conversation.tools is not None, generate, repr(conversation.variables))
        if key not in self._rests:
            text = self._template.render(conversation, messages, generate)
            if not text.startswith(begun):  # it depends on more than the conversation: a clock, say
                self._hopeless.add(key[0])
                self._ends = {}
                return text
            self._rests[key] = text[len(begun) :]
        return begun + self._rests[key]

    def tells(self, conversation: Conversation) -> bool:
        """Whether one rendering tells all beginnings."""
        return len(self.ends(conversation)) == len(conversation.messages)

    def ends(self, conversation: Conversation) -> Mapping[int, int]:
        """Where the beginnings end that one rendering tells, by their numbers of messages."""
        if self._conversation is not conversation:
            self._conversation, self._ends = conversation, {}
            if len(conversation.messages) > FEW and (conversation.tools is not None) not in self._hopeless:
                self._read(conversation)
        return self._ends

    def _read(self, conversation: Conversation) -> None:
        try:
            written = self._watched.render(conversation, self._watch.begin(conversation.messages))
        except ValueError:  # which of its beginnings the template takes is for their own renderings to say
            return
        rounds = written.split(END)
        if len(rounds) == len(self._watch.told) + 1:
            self._whole = "".join(rounds)
            self._ends = dict(zip(self._watch.told, accumulate(map(len, rounds)), strict=False))
        if not self._ends:
            self._hopeless.add(conversation.tools is not None)
