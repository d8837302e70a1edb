"""Where in a served text a weight other than its turn's applies: weighed parts, kept reasoning, messages of others.

Texts are found by rendering a twin: the template writes marks where it writes texts (`marks.py`), and the twin's
rendering with the texts in place of the marks has to be the served text, character for character.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorica.data.layout import Place, Served
from lorica.data.marks import LEAD, TRAIL, Form, Text
from lorica.data.messages import Conversation
from lorica.data.outline import outline, twin_of
from lorica.data.reasoning import REASONING_KEYS, inline_reasoning
from lorica.data.template import ChatTemplate
from lorica.data.tokenise import Shade


@dataclass(frozen=True, slots=True)
class _Found:
    """A text, or the white space beside it: from `start` to `end` in the served text, from `offset` in its message."""

    message: int
    key: str
    start: int
    end: int
    offset: int


def shades(template: ChatTemplate, conversation: Conversation, served: Served, first: int) -> list[Shade]:
    """The shades of a served text, for other messages than the assistant's from message `first` on.

    A message that is not the assistant's is trained from the beginning of its content to the end of the special token
    that follows it, if one does. Reasoning that is kept as context reaches from the beginning of the turn to the
    beginning of the answer: its tags are no answer either.

    Raises:
        ValueError: naming the row, where the template changes texts, so that their places cannot be told.
    """
    if not _needed(conversation):
        return []
    found = list(_find(template, conversation, served))
    made: list[Shade] = []
    for index, message in enumerate(conversation.messages):
        own = [one for one in found if one.message == index]
        contents = [one for one in own if one.key == "content"]
        turn = next((turn for turn in served.turns if turn.index == index), None)
        if message["role"] != "assistant" and index >= first and contents and conversation.weights[index]:
            end = contents[-1].end
            stop = template.specials.match(served.text, end)
            made.append(Shade(contents[0].start, stop.end() if stop else end, conversation.weights[index]))
        if turn is not None or (message["role"] != "assistant" and index >= first):
            made += _parts(conversation, index, contents)
        if turn is not None and conversation.reasoning == "keep":
            made += _reasoning(message["content"], turn, own)
    return made


def is_weighed(conversation: Conversation, index: int) -> bool:
    """Whether something of message `index` is trained."""
    return conversation.weights[index] != 0 or any(weight != 0 for *_, weight in conversation.parts.get(index, ()))


def _needed(conversation: Conversation) -> bool:
    others = (message["role"] != "assistant" for message in conversation.messages)
    return (
        bool(conversation.parts)
        or conversation.reasoning == "keep"
        or any(other and weight for other, weight in zip(others, conversation.weights, strict=True))
    )


def _parts(conversation: Conversation, index: int, contents: Sequence[_Found]) -> Iterator[Shade]:
    for start, end, weight in conversation.parts.get(index, ()):
        for one in contents:
            low, high = max(start, one.offset), min(end, one.offset + one.end - one.start)
            if low < high:
                yield Shade(one.start + low - one.offset, one.start + high - one.offset, weight)


def _reasoning(content: str, turn: Place, own: Sequence[_Found]) -> Iterator[Shade]:
    written = [one for one in own if one.key in REASONING_KEYS and turn.start <= one.start < turn.end]
    answer = [one for one in own if one.key == "content" and one.start >= turn.start]
    if written:
        end = max(one.end for one in written)
        yield Shade(turn.start, next((one.start for one in answer if one.start >= end), end), 0.0)
    for number, (low, high) in enumerate(inline_reasoning(content)):
        for one in answer:
            start, end = max(low, one.offset), min(high, one.offset + one.end - one.start)
            if start < end:
                begin = turn.start if number == 0 else one.start + start - one.offset
                yield Shade(begin, one.start + end - one.offset, 0.0)


def _find(template: ChatTemplate, conversation: Conversation, served: Served) -> Iterator[_Found]:
    """Where the texts are: those of the prompt of the last turn, then those of that turn."""
    _, texts = outline(conversation)
    twin = twin_of(conversation, texts)
    if twin is None:
        raise _cannot_find(conversation)
    last = served.turns[-1] if served.turns else None
    whole = Form.of(template.render(twin, twin.messages))
    if "".join(whole.fill(texts)).startswith(served.text):
        yield from _places(whole, texts, 0, 0, len(served.text))
        return
    if last is None or last.end != len(served.text):
        raise _cannot_find(conversation)
    prompt = Form.of(template.render(twin, twin.messages[: last.index], generate=True))
    if "".join(prompt.fill(texts)) != served.text[: last.start]:
        raise _cannot_find(conversation)
    yield from _places(prompt, texts, 0, 0, last.start)
    full = Form.of(template.render(twin, twin.messages[: last.index + 1]))
    body = served.text[last.start : last.end]
    written = "".join(full.fill(texts))
    at = next((at for text in (body, body[: -len(last.ending)]) if (at := written.rfind(text)) >= 0), -1)
    if at < 0:
        raise _cannot_find(conversation)
    yield from _places(full, texts, last.start - at, last.start, last.end)


def _places(twin: Form, texts: Sequence[Text], moved: int, low: int, high: int) -> Iterator[_Found]:
    """The texts of a twin's rendering that stand from `low` to `high` of the served text."""
    numbers, start = dict(twin.marks), moved
    for at, piece in enumerate(twin.fill(texts)):
        end = start + len(piece)
        if piece and at in numbers and low <= start and end <= high:
            text, character = texts[numbers[at]], twin.pieces[at]
            before = "" if character == LEAD else text.lead if character != TRAIL else text.lead + text.core
            yield _Found(text.message, text.key, start, end, len(before))
        start = end


def _cannot_find(conversation: Conversation) -> ValueError:
    return ValueError(
        f"{conversation.source}: parts with a weight of their own, reasoning that is kept, or messages of other roles "
        "that are trained cannot be found in what the chat template writes, because it changes their text. Weigh whole "
        "assistant messages instead, or give another template with `data.chat_template`."
    )
