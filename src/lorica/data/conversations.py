"""From a conversation to texts to tokenise, with the places in them that the model has to generate.

Turns whose text continues the text of the turn before share one text. A template that rewrites history (that drops
earlier reasoning, say) breaks that continuity, and such a turn gets a text of its own, as the server would see it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorica.data.findings import Findings
from lorica.data.layout import Place, locate
from lorica.data.messages import Conversation, Message
from lorica.data.template import ChatTemplate
from lorica.data.turns import WRITTEN, Turn, serve


@dataclass(frozen=True, slots=True)
class Served:
    """A text that a server would see and generate, and the trained turns in it."""

    text: str
    turns: list[Place]


def served(template: ChatTemplate, conversation: Conversation, findings: Findings) -> list[Served]:
    """The trained turns of a prepared conversation, as few texts as they can share.

    Raises:
        ValueError: naming the row, where the template refuses it or nothing says how a turn begins or ends.
    """
    _note_controls(template, conversation, findings)
    wanted = [index for index in range(len(conversation.messages)) if trained(conversation, index)]
    if wanted and wanted[0] == 0:
        wanted.pop(0)
        findings.add(
            "opens with an assistant turn",
            conversation.source,
            "No server generates a turn before any message, so it is context and not trained.",
        )
    located = locate(template, conversation, findings) if len(wanted) > 1 else None
    texts = [_chosen(located, wanted)] if located else _turn_by_turn(template, conversation, wanted, findings)
    for text in texts:
        for turn in text.turns:
            _note_content(conversation, turn.index, text.text[turn.start : turn.end], findings)
    return texts


def trained(conversation: Conversation, index: int) -> bool:
    """Whether message `index` is an assistant turn of which something is trained."""
    return conversation.messages[index]["role"] == "assistant" and conversation.weights[index] != 0.0


def _chosen(located: tuple[str, list[Place]], wanted: list[int]) -> Served:
    text, turns = located
    chosen = [turn for turn in turns if turn.index in set(wanted)]
    return Served(text[: chosen[-1].end], chosen)


def _turn_by_turn(
    template: ChatTemplate, conversation: Conversation, wanted: list[int], findings: Findings
) -> list[Served]:
    texts: list[Served] = []
    for index in wanted:
        turn = serve(template, conversation, index, findings)
        if texts and turn.prompt.startswith(texts[-1].text):
            texts[-1] = Served(turn.text, [*texts[-1].turns, _place(turn)])
        else:
            texts.append(Served(turn.text, [_place(turn)]))
    if len(texts) > 1:
        findings.add(
            "history is rendered differently",
            conversation.source,
            "The template writes earlier turns differently from how they were generated, so each turn is trained as an "
            "example of its own, as the server sees it.",
        )
    return texts


def _place(turn: Turn) -> Place:
    return Place(turn.index, len(turn.prompt), len(turn.text), turn.ending)


def _note_controls(template: ChatTemplate, conversation: Conversation, findings: Findings) -> None:
    for message in conversation.messages:
        if token := template.controls.search(message["content"]):
            findings.add(
                "special token in content",
                conversation.source,
                f"For example {token.group()!r} in a message of role {message['role']}: the tokenizer reads it as the "
                "control token, here and when serving; generation ends at a stop token.",
            )


def _note_content(conversation: Conversation, index: int, completion: str, findings: Findings) -> None:
    message = conversation.messages[index]
    if not message["content"].strip() and not message.get("tool_calls"):
        findings.add("empty assistant turn", conversation.source, "Only its stop token is trained.")
    missing = [text for text in _written(message) if text.strip() not in completion]
    if missing:
        findings.add(
            "text left out by the template",
            conversation.source,
            f"For example {missing[0]!r:.60}: it is in the assistant's message but not in what the server would have "
            "to generate, so it is not trained.",
        )


def _written(message: Message) -> list[str]:
    """What the assistant wrote: its texts and the names of the functions it called."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    return [str(message[key]) for key in WRITTEN if message.get(key)] + [str(call.get("name", "")) for call in calls]
