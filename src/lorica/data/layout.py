"""Every turn of a conversation from one rendering of it.

Asking for the server's prompt of every turn, as `turns.py` does, renders a conversation of n turns n times. Here:

1. The *outline* of a conversation is all that a template can tell two conversations apart by: roles, keys, tools, tool
   calls, and of each text whether it is empty, the white space at its edges and the tags in it that the template looks
   for. What remains of the texts are their *cores*.
2. Conversations of one outline share a *layout*. It is learned from their twin: the same outline with one private
   character for each core. Rendered, the twin falls into the template's own text and the places of the cores, and
   `turns.py` says where in it the turns are. Turns that follow the same kind of message with the same text are found by
   that text, so that learning is linear too; the first of each kind and the last turn are always asked for.
3. A conversation is rendered once. The layout filled with its cores must be that rendering, character for character;
   then the places of its turns follow by adding lengths. One of them, chosen by the text, must end exactly the prompt
   that the server would render.
4. Where anything does not hold (a template that rewrites history, or changes texts) there is no layout, and the
   conversation goes the slow way, which is the definition.

A layout depends on its outline and the template alone: what becomes of a row never depends on other rows.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from lorica.data.findings import Finding, Findings
from lorica.data.messages import Conversation, Message
from lorica.data.template import ChatTemplate
from lorica.data.turns import WRITTEN, serve

HOLE = "\ue000"  # in an outline, where a core was
FIRST_MARK, LAST_MARK = 0xF0000, 0xFFFFD  # in a twin, the characters that stand for cores: a private plane of Unicode
MARK = re.compile(f"([{chr(FIRST_MARK)}-{chr(LAST_MARK)}])")


@dataclass(frozen=True, slots=True)
class Core:
    """The characters `start` to `end` of the text under `key` of a message."""

    message: int
    key: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What is left of a conversation without its cores, as JSON text, and the cores in order."""

    text: str
    cores: list[Core]


@dataclass(frozen=True, slots=True)
class Place:
    """Characters `start` to `end` of a rendering: what message `index` makes the model generate, ended by `ending`."""

    index: int
    start: int
    end: int
    ending: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How a template lays out the conversations of one outline.

    `literals` are the template's own texts; between two of them stands the core of that number in `cores`. `turns` are
    places in the twin, where every core is one character: all assistant turns but one that opens the conversation.
    `turns` is None where they are not all in one rendering, and the layout then only says where the cores are. `tail`
    follows the rendering: the stop token of a last turn that templates write only when another message follows.
    """

    literals: list[str]
    cores: list[int]
    turns: list[Place] | None
    tail: str
    findings: list[Finding]

    def fill(self, cores: Sequence[Core], rendered: str) -> list[int] | None:
        """Where in `rendered` each literal and core begins, alternating; None where it is not this layout filled."""
        pieces = [""] * (len(self.literals) + len(self.cores))
        pieces[::2] = self.literals
        pieces[1::2] = [cores[number].text for number in self.cores]
        return list(accumulate(map(len, pieces), initial=0)) if "".join(pieces) == rendered else None

    def starts(self) -> list[int]:
        """Where in the twin each literal and core begins, alternating."""
        lengths = [1] * (len(self.literals) + len(self.cores))
        lengths[::2] = map(len, self.literals)
        return list(accumulate(lengths, initial=0))


def outline(template: ChatTemplate, conversation: Conversation) -> Outline:
    """Takes the cores out of a prepared conversation."""
    cores: list[Core] = []
    messages: list[Message] = []
    for index, message in enumerate(conversation.messages):
        messages.append(
            {
                key: _frame(template, value, index, key, cores) if key in WRITTEN and isinstance(value, str) else value
                for key, value in message.items()
            }
        )
    return Outline(json.dumps([messages, conversation.tools], ensure_ascii=False), cores)


def _frame(template: ChatTemplate, text: str, index: int, key: str, cores: list[Core]) -> str:
    """The text with a hole for each core, which is added to `cores`; a core ends at the tags the template watches."""
    tags = [tag for tag in template.watched if tag in text]
    if not tags:
        return _frame_piece(text, 0, index, key, cores)
    framed, start = [], 0
    for number, piece in enumerate(
        re.split(f"({'|'.join(map(re.escape, sorted(tags, key=len, reverse=True)))})", text)
    ):
        framed.append(piece if number % 2 else _frame_piece(piece, start, index, key, cores))
        start += len(piece)
    return "".join(framed)


def _frame_piece(piece: str, offset: int, index: int, key: str, cores: list[Core]) -> str:
    core = piece.strip()
    if not core:
        return piece
    start = len(piece) - len(piece.lstrip())
    end = start + len(core)
    cores.append(Core(index, key, offset + start, offset + end, core))
    return piece[:start] + HOLE + piece[end:]


def learned(template: ChatTemplate, conversation: Conversation, sketch: Outline) -> Layout | None:
    """The layout of a prepared conversation with this outline; None where there is none."""
    if sketch.text not in template.layouts:
        template.layouts[sketch.text] = _learn(template, conversation, sketch)
    layout = template.layouts[sketch.text]
    assert layout is None or isinstance(layout, Layout)
    return layout


def _learn(template: ChatTemplate, conversation: Conversation, sketch: Outline) -> Layout | None:
    holes = sketch.text.split(HOLE)
    if len(holes) != len(sketch.cores) + 1 or len(holes) > LAST_MARK - FIRST_MARK or MARK.search(sketch.text):
        return None
    marks = [chr(FIRST_MARK + number) for number in range(len(sketch.cores))] + [""]
    messages, tools = json.loads("".join(part for pair in zip(holes, marks, strict=True) for part in pair))
    twin = replace(conversation, messages=messages, tools=tools)
    findings = Findings()
    try:
        rendered = template.render(twin, messages)
        pieces = MARK.split(rendered)
        places = [
            (found.start(), sketch.cores[ord(found.group()) - FIRST_MARK].message) for found in MARK.finditer(rendered)
        ]
        turns, tail = _turns(template, twin, rendered, places, findings)
    except ValueError:  # the template refuses the twin; that the conversation itself is well is for the slow way to say
        return None
    return Layout(pieces[::2], [ord(mark) - FIRST_MARK for mark in pieces[1::2]], turns, tail, findings.all())


def _turns(
    template: ChatTemplate, twin: Conversation, rendered: str, places: list[tuple[int, int]], findings: Findings
) -> tuple[list[Place] | None, str]:
    """Where the turns are in the twin's rendering, and what the last one needs behind it.

    None where it does not hold them all as they are generated.
    """
    behind: dict[int, int] = {}  # message: the end of its last core
    for position, message in places:
        behind[message] = position + 1
    leads: dict[tuple[object, ...], str] = {}
    turns: list[Place] = []
    tail = ""
    answers = [index for index, message in enumerate(twin.messages) if message["role"] == "assistant" and index]
    for index in answers:
        kind = (_kind(twin.messages[index - 1]), _kind(twin.messages[index]))
        anchor = behind.get(index - 1)
        place = None
        if anchor is not None and kind in leads and index != answers[-1]:
            place = _repeated(template, rendered, anchor, leads[kind], index)
        if place is None:
            turn = serve(template, twin, index, findings)
            place = Place(index, len(turn.prompt), len(turn.text), turn.ending)
            if index == answers[-1] and turn.text.startswith(rendered):
                tail = turn.text[len(rendered) :]
            elif not rendered.startswith(turn.text):
                return None, ""
            if anchor is not None:
                leads[kind] = rendered[anchor : place.start]
        if turns and place.start < turns[-1].end:
            return None, ""
        turns.append(place)
    return turns, tail


def _kind(message: Message) -> tuple[object, ...]:
    return (message["role"], *(key for key, value in message.items() if value))


def _repeated(template: ChatTemplate, rendered: str, anchor: int, lead: str, index: int) -> Place | None:
    """A turn that begins behind the same text as an earlier one of its kind."""
    start = anchor + len(lead)
    stop = template.stops.search(rendered, start) if rendered.startswith(lead, anchor) else None
    return Place(index, start, stop.end(), stop.group()) if stop else None


def locate(template: ChatTemplate, conversation: Conversation, findings: Findings) -> tuple[str, list[Place]] | None:
    """The rendering of a prepared conversation and its assistant turns; None where only the slow way can tell.

    Raises:
        ValueError: naming the row, where the template refuses it.
    """
    sketch = outline(template, conversation)
    layout = learned(template, conversation, sketch)
    if layout is None or not layout.turns:
        return None
    rendered = template.render(conversation, conversation.messages)
    starts = layout.fill(sketch.cores, rendered)
    if starts is None:
        return None
    rendered += layout.tail
    twin = layout.starts()
    turns = [
        Place(turn.index, _moved(turn.start, twin, starts), _moved(turn.end, twin, starts), turn.ending)
        for turn in layout.turns
    ]
    if not all(_ends(template, rendered, turn) for turn in turns) or not _verified(
        template, conversation, rendered, turns
    ):
        return None
    for finding in layout.findings:
        findings.add(finding.name, conversation.source, finding.message)
    return rendered, turns


def _moved(position: int, twin: list[int], starts: list[int]) -> int:
    """From a position in the twin to the one in the rendering of the conversation."""
    piece = bisect_right(twin, position) - 1
    return starts[piece] + position - twin[piece]


def _ends(template: ChatTemplate, rendered: str, turn: Place) -> bool:
    """Whether no stop token inside the turn ends it before its own."""
    last = turn.end - len(turn.ending)
    return rendered.find(turn.ending, turn.start) == last and not template.stops.search(rendered, turn.start, last)


def _verified(template: ChatTemplate, conversation: Conversation, rendered: str, turns: list[Place]) -> bool:
    turn = turns[len(rendered) % len(turns)]
    prompt = template.render(conversation, conversation.messages[: turn.index], generate=True)
    return len(prompt) == turn.start and rendered.startswith(prompt)
