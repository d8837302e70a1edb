"""Every turn of a conversation without rendering it once for each.

Asking for the server's prompt of every turn, as `turns.py` does, renders a conversation of n turns 2n times and more.
But conversations differ in little that a template can see:

1. The *outline* of a conversation is all of it but its texts: roles, keys, tools, tool calls, and of each text whether
   it is empty. Its *twin* has the outline and a mark for each text.
2. The twin is served turn by turn, as `turns.py` does, while everything is noted that the template asks of a text
   (`questions.py`). Its rendering with the places of the turns is the *layout* of the outline.
3. A conversation of that outline whose texts give the noted answers takes the template the same way in each of those
   renderings. So the layout with its texts in place of the marks is its rendering, and the turns are where they are in
   the twin.
4. Where that is not so (other answers, a stop token inside a text, a template that rewrites history) the conversation
   goes the slow way, which is the definition.

A layout is learned when its outline comes a second time, and the prompts of conversations that begin alike are learned
once. All this decides how fast a row is done and never what becomes of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from lorica.data.findings import Finding, Findings
from lorica.data.marks import CHARACTER, FIRST, LAST, LEAD, RESERVED, TRAIL, Text, mark, whole_marks
from lorica.data.messages import Conversation
from lorica.data.questions import Asked, Question
from lorica.data.template import ChatTemplate
from lorica.data.turns import NOT_IN_TURN, WRITTEN, Turn, serve

MARKED = "\ue000"  # in an outline, where there is a text
REMEMBERED = 4096  # outlines, and beginnings of them
AUDITED = 16  # one conversation in so many, chosen by its text, is rendered all the same

Outline = tuple[object, ...]  # the tools, and one entry a message
Questions = dict[str, Question]


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


@dataclass(frozen=True, slots=True)
class TextLayout:
    """A text of a twin, in pieces: the template's own text, and one by one the characters of marks.

    `marks` are which pieces are such, with the number of the text. `turns` are places in the twin.
    """

    pieces: list[str]
    marks: list[tuple[int, int]]
    turns: list[Place]

    def filled(self, texts: Sequence[Text], wanted: Collection[int]) -> Served:
        """The same of a conversation with these texts, up to the last of the turns wanted."""
        pieces = self.pieces.copy()
        for piece, number in self.marks:
            pieces[piece] = texts[number].character(pieces[piece])
        twin, starts = _starts(self.pieces), _starts(pieces)

        def move(position: int) -> int:
            piece = bisect_right(twin, position) - 1
            return starts[piece] + position - twin[piece]

        turns = [replace(it, start=move(it.start), end=move(it.end)) for it in self.turns if it.index in wanted]
        return Served("".join(pieces)[: turns[-1].end], turns)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a template lays out the conversations of one outline whose texts answer `questions` as their marks do.

    `texts` hold all assistant turns but one that opens the conversation; `findings` were made of the turn of a message.
    """

    texts: list[TextLayout]
    questions: list[Question]
    findings: list[tuple[int, Finding]]


def _starts(pieces: list[str]) -> list[int]:
    """Where each piece begins, and where the last one ends."""
    return list(accumulate(map(len, pieces), initial=0))


def outline(conversation: Conversation) -> tuple[Outline, list[Text]]:
    """The outline of a prepared conversation, and its texts in the order of their marks."""
    texts: list[Text] = []
    entries: list[object] = [repr(conversation.tools)]
    for index, message in enumerate(conversation.messages):
        entry: list[object] = []
        for key, value in message.items():
            if not isinstance(value, str):
                value = (repr(value),)
            elif key in WRITTEN and (core := value.strip()):
                texts.append(Text.of(index, key, value, core))
                value = MARKED
            entry += (key, value)
        entries.append(tuple(entry))
    return tuple(entries), texts


def twin_of(conversation: Conversation, texts: Sequence[Text]) -> Conversation:
    """The conversation with marks for its texts."""
    messages = [message.copy() for message in conversation.messages]
    for number, text in enumerate(texts):
        messages[text.message][text.key] = mark(number)
    return replace(conversation, messages=messages)


def split(rendered: str) -> tuple[list[str], list[tuple[int, int]]]:
    """A twin's rendering in pieces, each character of a mark one of them; and which these are, with their texts."""
    pieces = CHARACTER.split(rendered)
    numbered = list(enumerate(pieces))[1::2]
    marks = []
    for piece, character in numbered:
        whose = piece + 2 * ((character == LEAD) - (character == TRAIL))  # the private character is beside it
        marks.append((piece, ord(pieces[whose]) - FIRST))
    return pieces, marks


@dataclass(frozen=True, slots=True)
class _Learned:
    """A turn of a twin, what was asked to find it, and what was noticed."""

    turn: Turn
    questions: Questions
    findings: list[Finding]


class Layouts:
    """What has been learned of a template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._asked = Asked(template.environment)
        self._witness = template.compiled_by(self._asked.compile_asking)
        self._layouts: dict[Outline, Layout | None] = {}
        self._turns: dict[Outline, _Learned | None] = {}
        self._seen: set[Outline] = set()

    def layout(self, conversation: Conversation, sketch: Outline, texts: Sequence[Text]) -> Layout | None:
        """The layout of a prepared conversation with this outline; None where there is none, or none yet."""
        if sketch not in self._layouts:
            if len(self._seen) + len(self._turns) > REMEMBERED:
                self._seen, self._layouts, self._turns = set(), {}, {}
            if sketch not in self._seen:
                self._seen.add(sketch)
                return None
            self._layouts[sketch] = self._learn(conversation, sketch, texts)
        return self._layouts[sketch]

    def _learn(self, conversation: Conversation, sketch: Outline, texts: Sequence[Text]) -> Layout | None:
        if len(texts) > LAST - FIRST or RESERVED.search(repr(sketch)):
            return None
        twin = twin_of(conversation, texts)
        answers = [index for index, message in enumerate(twin.messages) if message["role"] == "assistant" and index]
        learned = []
        for index in answers:
            turn = self._turn(twin, sketch, index)
            if turn is None:
                return None
            learned.append(turn)
        questions = {key: question for one in learned for key, question in one.questions.items()}
        laid_out = [TextLayout(*split(text.text), text.turns) for text in joined(one.turn for one in learned)]
        findings = [(one.turn.index, finding) for one in learned for finding in one.findings]
        return Layout(laid_out, list(questions.values()), findings)

    def _turn(self, twin: Conversation, sketch: Outline, index: int) -> _Learned | None:
        """The turn of message `index`, of which no later message but the next is a part; None where it is not plain."""
        beginning = sketch[: index + 3]
        if beginning not in self._turns:
            self._turns[beginning] = self._watch(twin, index)
        return self._turns[beginning]

    def _watch(self, twin: Conversation, index: int) -> _Learned | None:
        self._asked.questions, self._asked.unforeseen = {}, False
        findings = Findings()
        try:
            turn = serve(self._witness, twin, index, findings)
            same = serve(self._template, twin, index, Findings()) == turn
        except ValueError:  # it refuses the twin; that the conversation itself is well is for the slow way to say
            return None
        found = findings.all()
        if self._asked.unforeseen or not same or not whole_marks(turn.text) or NOT_IN_TURN in [it.name for it in found]:
            return None
        return _Learned(turn, self._asked.questions, found)


def joined(turns: Iterable[Turn]) -> list[Served]:
    """As few texts as the turns can share: a turn whose prompt continues the text before it belongs to that."""
    texts: list[Served] = []
    for turn in turns:
        place = Place(turn.index, len(turn.prompt), len(turn.text), turn.ending)
        earlier = [*texts.pop().turns] if texts and turn.prompt.startswith(texts[-1].text) else []
        texts.append(Served(turn.text, [*earlier, place]))
    return texts


def locate(
    template: ChatTemplate, conversation: Conversation, wanted: Collection[int], findings: Findings
) -> list[Served] | None:
    """The turns wanted of a prepared conversation, in few texts; None where only the slow way can tell.

    Raises:
        ValueError: naming the row, where the template refuses it.
    """
    if "layouts" not in template.learned:
        template.learned["layouts"] = Layouts(template)
    layouts: Layouts = template.learned["layouts"]
    sketch, texts = outline(conversation)
    layout = layouts.layout(conversation, sketch, texts)
    if layout is None or not all(question.same(texts) for question in layout.questions):
        return None
    if layout.findings and any(template.specials.search(text.core) for text in texts):
        return None  # where turns end with no stop token, a special token at the end of a text may be taken for one
    found: list[Served] = []
    for laid_out in layout.texts:
        if any(turn.index in wanted for turn in laid_out.turns):
            text = laid_out.filled(texts, wanted)
            if found and text.text.startswith(found[-1].text, 0, text.turns[0].start):
                text = Served(text.text, found.pop().turns + text.turns)
            found.append(text)
    if not all(_ends(template, text.text, turn) for text in found for turn in text.turns):
        return None
    if not _audited(template, conversation, found):
        return None
    for index, finding in layout.findings:
        if index in wanted:
            findings.add(finding.name, conversation.source, finding.message)
    return found


def _audited(template: ChatTemplate, conversation: Conversation, found: list[Served]) -> bool:
    """Whether the turns of some conversations, chosen by their text, are those of the slow way."""
    text = found[-1]
    if len(text.text) % AUDITED:
        return True
    turn = serve(template, conversation, text.turns[-1].index, Findings())
    return text.text == turn.text and text.turns[-1].start == len(turn.prompt)


def _ends(template: ChatTemplate, rendered: str, turn: Place) -> bool:
    """Whether no stop token inside the turn ends it before its own."""
    last = turn.end - len(turn.ending)
    return rendered.find(turn.ending, turn.start) == last and not template.stops.search(rendered, turn.start, last)
