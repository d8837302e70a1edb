"""From a conversation to texts to tokenise, with the places in them that the model has to generate.

Turns whose text continues the text of the turn before share one text. A template that rewrites history (that drops
earlier reasoning, say) breaks that continuity, and such a turn gets a text of its own, as the server would see it.
"""

from __future__ import annotations

from lorica.data.beginnings import Beginnings
from lorica.data.findings import Findings
from lorica.data.layout import Served, joined
from lorica.data.learning import locate
from lorica.data.messages import Conversation, Message
from lorica.data.shades import is_weighed
from lorica.data.template import ChatTemplate
from lorica.data.turns import WRITTEN, serve

SHORT = 20  # messages; to learn how more are laid out costs more than one rendering of each conversation


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
    texts = _find(template, conversation, wanted, findings) if wanted else []
    if len(texts) > 1:
        findings.add(
            "history is rendered differently",
            conversation.source,
            "The template writes earlier turns differently from how they were generated, so each turn is trained as an "
            "example of its own, as the server sees it.",
        )
    texts = _with_the_rest(template, conversation, texts)
    for text in texts:
        for turn in text.turns:
            _note_content(conversation, turn.index, text.text[turn.start : turn.end], findings)
    return texts


def _find(template: ChatTemplate, conversation: Conversation, wanted: list[int], findings: Findings) -> list[Served]:
    """The turns wanted, by what was learned of the template, or as they are defined."""
    if "beginnings" not in template.learned:
        template.learned["beginnings"] = Beginnings(template)
    beginnings: Beginnings = template.learned["beginnings"]
    short = len(conversation.messages) <= SHORT
    texts = locate(template, conversation, wanted, findings) if short or not beginnings.tells(conversation) else None
    if texts is not None:
        return texts
    with template.in_time():
        return joined(serve(beginnings, conversation, index, findings) for index in wanted)


def trained(conversation: Conversation, index: int) -> bool:
    """Whether message `index` is an assistant turn of which something is trained."""
    return conversation.messages[index]["role"] == "assistant" and is_weighed(conversation, index)


def _with_the_rest(template: ChatTemplate, conversation: Conversation, texts: list[Served]) -> list[Served]:
    """With the messages behind the last turn, where one of another role than the assistant's is trained."""
    messages = conversation.messages
    others = [
        index
        for index in range(len(messages))
        if messages[index]["role"] != "assistant" and is_weighed(conversation, index)
    ]
    if not others or (texts and others[-1] < texts[-1].turns[-1].index):
        return texts
    whole = template.render(conversation, messages[: others[-1] + 1])
    if texts and whole.startswith(texts[-1].text):
        return [*texts[:-1], Served(whole, texts[-1].turns)]
    return [*texts, Served(whole, [])]


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
    missing = [text for text in _written(message) if not completion.startswith(text) and text.strip() not in completion]
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
