"""Every turn of a conversation without rendering it once for each.

Asking for the server's prompt of every turn, as `turns.py` does, renders a conversation of n turns 2n times and more.
Some templates tell them all in one rendering (`beginnings.py`). For all others, and for short conversations, of which
there are many: they differ in little that a template can see.

1. The *outline* of a conversation is all of it but its texts: roles, keys, tools, tool calls, and of each text whether
   it is empty. Its *twin* has the outline and a mark for each text.
2. The twin is served turn by turn, as `turns.py` does, while everything is noted that the template asks of a text
   (`questions.py`). What it is rendered to is the *layout* of the outline (`layout.py`).
3. A conversation of that outline whose texts give the noted answers takes the template the same way in each of those
   renderings. So the twin's renderings with texts in place of the marks are its own, and the turns are found in them.
4. Where that is not so (other answers, a stop token inside a text) the conversation goes the slow way, which is the
   definition.

What conversations that begin alike have in common is learned once, and only when most of it comes a second time, since
learning costs more than it saves once. All this decides how fast a row is done and never what becomes of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lorica.data.findings import Finding, Findings
from lorica.data.layout import Layout, OneText, Rendering, Renderings, Served, joined
from lorica.data.marks import Text, whole_marks
from lorica.data.messages import Conversation, Message
from lorica.data.outline import Outline, answers, outline, twin_of
from lorica.data.questions import Asked, Question
from lorica.data.sandbox import served_environment
from lorica.data.template import ChatTemplate
from lorica.data.turns import NOT_IN_TURN, Turn, serve

REMEMBERED = 16384  # beginnings of outlines


@dataclass(frozen=True, slots=True)
class _Learned:
    """A turn of a twin, the renderings in which it was found, what they asked, and what was noticed."""

    turn: Turn
    renderings: list[Rendering]
    questions: dict[str, Question]
    findings: list[Finding]


class _Witness:
    """Renders twins, and notes what it is asked to render and what the template asks."""

    def __init__(self, template: ChatTemplate) -> None:
        self.stops, self.specials, self.tokenizer = template.stops, template.specials, template.tokenizer
        self._served = template
        self._asked = Asked(served_environment())
        self._asking = template.compiled_by(self._asked.compile_asking)
        self._renderings: list[Rendering] = []
        self._same = True

    def watch(self, twin: Conversation, index: int) -> _Learned | None:
        """The turn of message `index`; None where something happens that cannot be told of other texts."""
        findings = Findings()
        self._renderings, self._same = [], True
        self._asked.questions, self._asked.unforeseen = {}, False
        try:
            with self._served.in_time(), self._asking.in_time():
                turn = serve(self, twin, index, findings)
        except ValueError:  # it refuses the twin; that the conversation itself is well is for the slow way to say
            return None
        if self._asked.unforeseen or not self._same:
            return None
        return _Learned(turn, self._renderings, self._asked.questions, findings.all())

    def render(self, conversation: Conversation, messages: list[Message], generate: bool = False) -> str:
        text = self._asking.render(conversation, messages, generate)
        if len(messages) + 2 >= len(conversation.messages):  # the last ones show all that the others do
            self._same &= text == self._served.render(conversation, messages, generate)
        self._same &= whole_marks(text)
        self._renderings.append(Rendering.of(conversation, messages, generate, text))
        return text


@dataclass(slots=True)
class _Beginning:
    """What is known of conversations whose outlines begin alike, and by the next entry how they go on.

    `turns` are those that were learned, by message: one is decided by the tools, all messages up to its own, and the
    next. `met` says that a turn decided here came before, `learned` that `layout` is that of conversations ending here.
    """

    following: dict[object, _Beginning] = field(default_factory=dict)
    turns: dict[int, _Learned | None] = field(default_factory=dict)
    layout: Layout | None = None
    learned: bool = False
    met: bool = False


class Layouts:
    """What has been learned of a template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._witness = _Witness(template)
        self._nothing, self._remembered = _Beginning(), 0

    def layout(self, conversation: Conversation, sketch: Outline, texts: Sequence[Text]) -> Layout | None:
        """The layout of a prepared conversation with this outline; None where there is none, or none yet."""
        path = self._path(sketch)
        end = path[-1]
        if not end.learned:
            deciding = {index: path[min(index + 2, len(path) - 1)] for index in answers(conversation)}
            new = sum(not beginning.met for beginning in deciding.values())
            for beginning in deciding.values():
                beginning.met = True
            if 2 * new > len(deciding):
                return None
            end.layout, end.learned = self._learn(conversation, texts, deciding), True
        return end.layout

    def _path(self, sketch: Outline) -> list[_Beginning]:
        """The beginnings of an outline, the shortest first."""
        if self._remembered > REMEMBERED:
            self._nothing, self._remembered = _Beginning(), 0
        path, last = [], self._nothing
        for entry in sketch:
            if entry not in last.following:
                last.following[entry] = _Beginning()
                self._remembered += 1
            last = last.following[entry]
            path.append(last)
        return path

    def _learn(
        self, conversation: Conversation, texts: Sequence[Text], deciding: Mapping[int, _Beginning]
    ) -> Layout | None:
        twin = twin_of(conversation, texts)
        if twin is None:
            return None
        learned: list[_Learned] = []
        for index, beginning in deciding.items():
            if index not in beginning.turns:
                beginning.turns[index] = self._witness.watch(twin, index)
            turn = beginning.turns[index]
            if turn is None:
                return None
            learned.append(turn)
        return _layout(learned)


def _layout(learned: Sequence[_Learned]) -> Layout:
    questions = list({key: question for one in learned for key, question in one.questions.items()}.values())
    findings = [(one.turn.index, finding) for one in learned for finding in one.findings]
    texts = joined(one.turn for one in learned)
    if len(texts) == 1 and NOT_IN_TURN not in [finding.name for _, finding in findings]:
        return OneText.of(texts[0], questions, findings)
    return Renderings(questions, {one.turn.index: one.renderings for one in learned})


def locate(
    template: ChatTemplate, conversation: Conversation, wanted: Collection[int], findings: Findings
) -> list[Served] | None:
    """The turns wanted of a prepared conversation, in few texts; None where only the slow way can tell.

    Raises:
        ValueError: naming the row, where nothing says how a turn begins or ends.
    """
    if "layouts" not in template.learned:
        template.learned["layouts"] = Layouts(template)
    layouts: Layouts = template.learned["layouts"]
    sketch, texts = outline(conversation)
    layout = layouts.layout(conversation, sketch, texts)
    if layout is None or not layout.holds(texts):
        return None
    return layout.served(template, conversation, texts, wanted, findings)
