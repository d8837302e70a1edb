"""How a template lays out the conversations of one outline, learned from a twin with marks for texts.

There are two forms. Where all turns share one text, that text and the places of the turns are kept, and a conversation
costs one filling of it. Where they do not (a template that rewrites history, or whose finished turns differ from the
prompt) the twin's renderings are kept, and `turns.py` finds the turns in them, filled.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from lorica.data.findings import Finding, Findings
from lorica.data.marks import Form, Text
from lorica.data.messages import Conversation, Message
from lorica.data.questions import Question
from lorica.data.turns import Renderer, Turn, serve


@dataclass(frozen=True, slots=True)
class Place:
    """Characters `start` to `end` of a rendering: what message `index` makes the model generate, ended by `ending`."""

    index: int
    start: int
    end: int
    ending: str


@dataclass(frozen=True, slots=True)
class Served:
    """A text that a server would see and generate, and the turns in it."""

    text: str
    turns: list[Place]


def joined(turns: Iterable[Turn]) -> list[Served]:
    """As few texts as the turns can share: a turn whose prompt continues the text before it belongs to that."""
    texts: list[Served] = []
    for turn in turns:
        place = Place(turn.index, len(turn.prompt), len(turn.text), turn.ending)
        earlier = texts.pop().turns if texts and turn.prompt.startswith(texts[-1].text) else []
        texts.append(Served(turn.text, [*earlier, place]))
    return texts


@dataclass(frozen=True, slots=True)
class Layout(ABC):
    """How conversations are served whose texts answer `questions` as their marks do."""

    questions: list[Question]

    def holds(self, texts: Sequence[Text]) -> bool:
        """Whether it is the layout of the conversation with these texts, which has its outline."""
        return all(question.same(texts) for question in self.questions)

    @abstractmethod
    def served(
        self, template: Renderer, conversation: Conversation, texts: Sequence[Text], wanted: Collection[int],
        findings: Findings,
    ) -> list[Served] | None:  # fmt: skip
        """The turns wanted of that conversation; None where its texts hold something that only the slow way can tell.

        Raises:
            ValueError: naming the row, where nothing says how a turn begins or ends.
        """


@dataclass(frozen=True, slots=True)
class OneText(Layout):
    """All turns share one text, of which `form` is the twin's, with pieces that begin at `starts`.

    A place in `turns` is one in the twin; `findings` were made of the turn of a message.
    """

    form: Form
    starts: list[int]
    turns: list[Place]
    findings: list[tuple[int, Finding]]

    @classmethod
    def of(cls, text: Served, questions: list[Question], findings: list[tuple[int, Finding]]) -> OneText:
        """The layout of which this is the twin."""
        form = Form.of(text.text)
        return cls(questions, form, _starts(form.pieces), text.turns, findings)

    def served(
        self, template: Renderer, conversation: Conversation, texts: Sequence[Text], wanted: Collection[int],
        findings: Findings,
    ) -> list[Served] | None:  # fmt: skip
        if self.findings and any(template.specials.search(text.core) for text in texts):
            return None  # where turns end with no stop token, a special token at the end of a text may pass for one
        pieces = self.form.fill(texts)
        starts = _starts(pieces)
        turns = [
            Place(turn.index, self._moved(turn.start, starts), self._moved(turn.end, starts), turn.ending)
            for turn in self.turns
            if turn.index in wanted
        ]
        text = "".join(pieces)[: turns[-1].end]
        if not all(_ends(template.stops, text, turn) for turn in turns):
            return None
        for index, finding in self.findings:
            if index in wanted:
                findings.add(finding.name, conversation.source, finding.message)
        return [Served(text, turns)]

    def _moved(self, position: int, starts: list[int]) -> int:
        """From a position in the twin to the one in the filled text."""
        piece = bisect_right(self.starts, position) - 1
        return starts[piece] + position - self.starts[piece]


def _starts(pieces: list[str]) -> list[int]:
    """Where each piece begins, and where the last one ends."""
    return list(accumulate(map(len, pieces), initial=0))


def _ends(stops: re.Pattern[str], text: str, turn: Place) -> bool:
    """Whether no stop token inside the turn ends it before its own."""
    last = turn.end - len(turn.ending)
    return text.find(turn.ending, turn.start) == last and not stops.search(text, turn.start, last)


@dataclass(frozen=True, slots=True)
class Rendering:
    """What was asked of a twin, and what it was rendered to.

    `asked` is the number of messages, whether the generation prompt comes after them, and whether the last is the
    conversation's own or made of it, which together tell all the renderings of one turn apart (`turns.py`).
    """

    asked: tuple[int, bool, bool]
    form: Form

    @classmethod
    def of(cls, conversation: Conversation, messages: list[Message], generate: bool, text: str) -> Rendering:
        """The rendering of these messages of a conversation."""
        return cls(asked(conversation, messages, generate), Form.of(text))


def asked(conversation: Conversation, messages: list[Message], generate: bool) -> tuple[int, bool, bool]:
    """Which of the renderings of a turn this is."""
    own = conversation.messages[len(messages) - 1 : len(messages)]
    return len(messages), generate, bool(own) and messages[-1] is own[0]


@dataclass(frozen=True, slots=True)
class Renderings(Layout):
    """The renderings in which each turn of the twin was found, by its message's index."""

    renderings: dict[int, list[Rendering]]

    def served(
        self, template: Renderer, conversation: Conversation, texts: Sequence[Text], wanted: Collection[int],
        findings: Findings,
    ) -> list[Served] | None:  # fmt: skip
        try:
            return joined(
                serve(_Filled(template, self.renderings[index], texts), conversation, index, findings)
                for index in wanted
            )
        except _Unrendered:
            return None


class _Unrendered(Exception):
    """The twin was not asked for this rendering."""


class _Filled:
    """Renders by filling what the twin was rendered to, in the same order."""

    def __init__(self, template: Renderer, renderings: Sequence[Rendering], texts: Sequence[Text]) -> None:
        self.stops, self.specials, self.tokenizer = template.stops, template.specials, template.tokenizer
        self._renderings, self._texts = iter(renderings), texts

    def render(self, conversation: Conversation, messages: list[Message], generate: bool = False) -> str:
        told = next(self._renderings, None)
        if told is None or told.asked != asked(conversation, messages, generate):
            raise _Unrendered
        return "".join(told.form.fill(self._texts))
