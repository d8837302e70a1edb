"""What the server would see and what it would have to generate, for one assistant turn.

A turn's prompt is the rendering of everything before it with `add_generation_prompt=True`: exactly what a server feeds
the model. Its completion is the rest of the rendering that includes it, up to and including the first stop token.
This is the definition, a few renderings a turn; `learning.py` finds the same turns with hardly any.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lorica.data.findings import Findings
from lorica.data.messages import Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ue000"  # a private character that no template writes: where a message's own text begins
TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
NOT_IN_TURN = "prompt is not in the finished turn"
WRITTEN = ("content", "reasoning", "reasoning_content", "thinking")


class Renderer(Protocol):
    """What is asked of a `ChatTemplate`."""

    stops: re.Pattern[str]
    specials: re.Pattern[str]
    tokenizer: PreTrainedTokenizerBase

    def render(self, conversation: Conversation, messages: list[Message], generate: bool = False) -> str:
        """As `ChatTemplate.render`."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant turn: message `index`, the server's prompt, and the text to generate, which ends with `ending`."""

    index: int
    prompt: str
    completion: str
    ending: str

    @property
    def text(self) -> str:
        return self.prompt + self.completion


def serve(template: Renderer, conversation: Conversation, index: int, findings: Findings) -> Turn:
    """The turn of message `index` (not the first) of a prepared conversation.

    Raises:
        ValueError: naming the row, where the template refuses it or nothing says how the turn begins or ends.
    """
    before, message = conversation.messages[:index], conversation.messages[index]
    prompt = template.render(conversation, before, generate=True)
    full = template.render(conversation, [*before, message])
    start = len(prompt)
    if not full.startswith(prompt):
        start = _beginning(template, conversation, index, prompt, full)
        findings.add(
            NOT_IN_TURN,
            conversation.source,
            f"The server's prompt ends with {prompt[-30:]!r}, which the template does not repeat before a finished "
            "turn; the turn is trained after the prompt, as served.",
        )
    return Turn(index, prompt, *_up_to_stop(template, conversation, index, full, start, findings))


def _beginning(template: Renderer, conversation: Conversation, index: int, prompt: str, full: str) -> int:
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
            found = full.find(anchor, common(history, full)) if anchor else -1
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


def _after_last_content(template: Renderer, conversation: Conversation, before: list[Message]) -> str:
    """What follows the last message's content in the server's prompt: that message's end and the generation prompt."""
    last = before[-1] | {"content": before[-1]["content"] + MARK}
    return template.render(conversation, [*before[:-1], last], generate=True).rpartition(MARK)[2]


def _parting(template: Renderer, conversation: Conversation, index: int, prompt: str, full: str) -> int:
    """Where `prompt` and `full` part, moved back to the start of a tag or special token that the point would split.

    A second rendering with marked content keeps text that a message happens to share with the generation prompt from
    moving the point on.
    """
    marked = template.render(conversation, [*conversation.messages[:index], _marked(conversation.messages[index])])
    point = min(common(prompt, full), common(prompt, marked))
    before = prompt[point - 1 : point]
    if before.isspace() and before not in template.specials.pattern:  # of which no tag and no token has any
        return point
    for pattern in (template.specials, TAG):
        for token in pattern.finditer(prompt):
            if token.start() < point < token.end():
                point = token.start()
    return point


def common(one: str, other: str) -> int:
    """The length of the longest common prefix."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect_left(lengths, True, key=lambda length: not other.startswith(one[:length]))


def _marked(message: Message) -> Message:
    return message | {key: MARK + message[key] for key in WRITTEN if isinstance(message.get(key), str)}


def _up_to_stop(
    template: Renderer, conversation: Conversation, index: int, full: str, start: int, findings: Findings
) -> tuple[str, str]:
    """`full[start:]` up to its stop token; where it has none, with the one that the server needs. And that token."""
    if stop := template.stops.search(full, start):
        return full[start : stop.end()], stop.group()
    if stop := template.stops.match(_continued(template, conversation, index), len(full)):
        return full[start:] + stop.group(), stop.group()
    ending = [token for token in template.specials.finditer(full, start) if not full[token.end() :].strip()]
    if ending:
        findings.add(
            "stop token is not the tokenizer's",
            conversation.source,
            f"The template ends turns with {ending[0].group()!r} while eos_token is "
            f"{template.tokenizer.eos_token!r}; the server must stop on the former too (`eos_token_id` of the "
            "generation config).",
        )
        token = ending[0].group()
        return full[start : full.index(token, start) + len(token)], token
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
    return full[start:] + str(eos), str(eos)


def _continued(template: Renderer, conversation: Conversation, index: int) -> str:
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
