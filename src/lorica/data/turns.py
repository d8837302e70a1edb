"""What the server would see and what it would have to generate, for each assistant turn.

A turn's prompt is the rendering of everything before it with `add_generation_prompt=True`: exactly what a server feeds
the model. Its completion is the rest of the rendering that includes it, up to and including the first stop token.
Turns whose text continues the text of the turn before share one document. A template that rewrites history (that drops
earlier reasoning, say) breaks that continuity, and such a turn gets a document of its own, as the server would see it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

from lorica.data.findings import Findings
from lorica.data.messages import Conversation, Message
from lorica.data.template import ChatTemplate

MARK = "\ue000"  # a private character that no template writes: where a message's own text begins
TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
WRITTEN = ("content", "reasoning", "reasoning_content", "thinking")


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn: the server's prompt, the text to generate (with its stop token), and its loss weight."""

    prompt: str
    completion: str
    weight: float

    @property
    def text(self) -> str:
        return self.prompt + self.completion


def served_turns(template: ChatTemplate, conversation: Conversation, findings: Findings) -> list[list[Turn]]:
    """The trained turns of a conversation, grouped into documents: in each, every turn's prompt extends the last text.

    Raises:
        ValueError: naming the row, where the template refuses it or nothing says how the turn ends.
    """
    _note_controls(template, conversation, findings)
    documents: list[list[Turn]] = []
    for index, weight in enumerate(conversation.weights):
        if weight == 0.0:
            continue
        if index == 0:
            findings.add(
                "opens with an assistant turn",
                conversation.source,
                "No server generates a turn before any message, so it is context and not trained.",
            )
            continue
        turn = _serve(template, conversation, index, findings)
        if documents and turn.prompt.startswith(documents[-1][-1].text):
            documents[-1].append(turn)
        else:
            documents.append([turn])
    if len(documents) > 1:
        findings.add(
            "history is rendered differently",
            conversation.source,
            "The template writes earlier turns differently from how they were generated, so each turn is trained as an "
            "example of its own, as the server sees it.",
        )
    return documents


def _serve(template: ChatTemplate, conversation: Conversation, index: int, findings: Findings) -> Turn:
    before, message = conversation.messages[:index], conversation.messages[index]
    prompt = template.render(conversation, before, generate=True)
    full = template.render(conversation, [*before, message])
    start = len(prompt)
    if not full.startswith(prompt):
        start = _beginning(template, conversation, index, prompt, full)
        findings.add(
            "prompt is not in the finished turn",
            conversation.source,
            f"The server's prompt ends with {prompt[-30:]!r}, which the template does not repeat before a finished "
            "turn; the turn is trained after the prompt, as served.",
        )
    completion = _up_to_stop(template, conversation, index, full, start, findings)
    _note_content(template, conversation.source, message, completion, findings)
    return Turn(prompt, completion, conversation.weights[index])


def _beginning(template: ChatTemplate, conversation: Conversation, index: int, prompt: str, full: str) -> int:
    """Where the turn begins in `full`, when `full` does not start with the server's prompt.

    Either the template leaves the end of the generation prompt out of finished turns (an opened reasoning block, say),
    and the turn begins where the two part. Or it writes the history differently when a turn follows, and the turn
    begins behind the generation prompt, or behind the last message and all that follows it in the prompt.
    """
    before = conversation.messages[:index]
    history = template.render(conversation, before)
    tail = _after_last_content(template, conversation, before)
    if not full.startswith(history):
        generation_prompt = prompt.removeprefix(history) if prompt.startswith(history) else ""
        last = str(before[-1]["content"]).strip() + tail
        for anchor in (generation_prompt, last if prompt.endswith(last) else ""):
            found = full.find(anchor, _common(history, full)) if anchor else -1
            if found >= 0:
                return found + len(anchor)
    point = _parting(template, conversation, index, prompt, full)
    if point < len(prompt) - len(tail):
        raise ValueError(
            f"{conversation.source}: the chat template renders what comes before messages[{index}] differently with "
            "and without the generation prompt, so what a server would generate cannot be told. Give another template "
            "with `data.chat_template`."
        )
    return point


def _after_last_content(template: ChatTemplate, conversation: Conversation, before: list[Message]) -> str:
    """What follows the last message's content in the server's prompt: that message's end and the generation prompt."""
    last = before[-1] | {"content": before[-1]["content"] + MARK}
    return template.render(conversation, [*before[:-1], last], generate=True).rpartition(MARK)[2]


def _parting(template: ChatTemplate, conversation: Conversation, index: int, prompt: str, full: str) -> int:
    """Where `prompt` and `full` part, moved back to the start of a tag or special token that the point would split.

    A second rendering with marked content keeps text that a message happens to share with the generation prompt from
    moving the point on.
    """
    marked = template.render(conversation, [*conversation.messages[:index], _marked(conversation.messages[index])])
    point = min(_common(prompt, full), _common(prompt, marked))
    for pattern in (template.specials, TAG):
        for token in pattern.finditer(prompt):
            if token.start() < point < token.end():
                point = token.start()
    return point


def _common(one: str, other: str) -> int:
    """The length of the longest common prefix."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect_left(lengths, True, key=lambda length: one[:length] != other[:length])


def _marked(message: Message) -> Message:
    return message | {key: MARK + message[key] for key in WRITTEN if isinstance(message.get(key), str)}


def _up_to_stop(
    template: ChatTemplate, conversation: Conversation, index: int, full: str, start: int, findings: Findings
) -> str:
    """`full[start:]` up to and including the stop token; where it has none, with the stop token the server needs."""
    if stop := template.stops.search(full, start):
        return full[start : stop.end()]
    if stop := template.stops.match(_continued(template, conversation, index), len(full)):
        return full[start:] + stop.group()
    ending = [token for token in template.specials.finditer(full, start) if not full[token.end() :].strip()]
    if ending:
        findings.add(
            "stop token is not the tokenizer's",
            conversation.source,
            f"The template ends turns with {ending[0].group()!r} while eos_token is "
            f"{template.tokenizer.eos_token!r}; the server must stop on the former too (`eos_token_id` of the "
            "generation config).",
        )
        return full[start : full.index(ending[0].group(), start) + len(ending[0].group())]
    eos = template.tokenizer.eos_token
    if not eos:
        raise ValueError(
            f"{conversation.source}: no stop token follows the assistant turn and the tokenizer has no eos_token, so "
            "the model would never learn to stop. Set eos_token, or give a template that ends turns."
        )
    findings.add(
        "stop token added",
        conversation.source,
        f"The template ends assistant turns with no stop token; {eos!r} is trained after each, as a server needs it.",
    )
    return full[start:] + str(eos)


def _continued(template: ChatTemplate, conversation: Conversation, index: int) -> str:
    """The conversation one message further (a made-up one after the last): some templates end a turn only there."""
    messages = conversation.messages[: index + 2]
    if len(messages) == index + 1:
        role = "tool" if messages[-1].get("tool_calls") else "user"
        messages = [*messages, {"role": role, "content": "-"}]
    full = template.render(conversation, messages[: index + 1])
    try:
        continued = template.render(conversation, messages)
    except ValueError:  # a template may refuse the made-up message; then it has nothing to tell
        return full
    return continued if continued.startswith(full) else full


def _note_controls(template: ChatTemplate, conversation: Conversation, findings: Findings) -> None:
    for message in conversation.messages:
        if token := template.controls.search(message["content"]):
            findings.add(
                "special token in content",
                conversation.source,
                f"For example {token.group()!r} in a message of role {message['role']}: the tokenizer reads it as the "
                "control token, here and when serving; generation ends at a stop token.",
            )


def _note_content(template: ChatTemplate, source: str, message: Message, completion: str, findings: Findings) -> None:
    if not message["content"].strip() and not message.get("tool_calls"):
        findings.add("empty assistant turn", source, "Only its stop token is trained.")
    missing = [text for text in _written(message) if text.strip() not in completion]
    if missing:
        findings.add(
            "text left out by the template",
            source,
            f"For example {missing[0]!r:.60}: it is in the assistant's message but not in what the server would have "
            "to generate, so it is not trained.",
        )


def _written(message: Message) -> list[str]:
    """What the assistant wrote: its texts and the names of the functions it called."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    return [str(message[key]) for key in WRITTEN if message.get(key)] + [str(call.get("name", "")) for call in calls]
