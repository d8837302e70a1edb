"""A chat template as the server uses it: rendering, and the tokens on which generation stops.

Rendering is transformers' own (a sandboxed Jinja), so that training sees byte for byte what serving will.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from lorica.data.messages import Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a sandboxed template can raise: its own refusals, and the slips of code that meets a message it did not expect.
REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class ChatTemplate:
    """Renders conversations with the tokenizer's template, or with the one in the file `path`.

    `stops` matches the stop tokens in rendered text, `specials` any added token of the tokenizer, `controls` those of
    them that are special: what text of users should not contain.

    Args:
        stop_ids: the ids on which the server stops (`eos_token_id` of the generation config); the tokenizer's
            `eos_token` is always one of them.

    Raises:
        ValueError: there is no template, or its file cannot be read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, path: str | None, stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.source = _read(path) if path else None
        if self.source is None and not tokenizer.chat_template:
            raise ValueError(
                "The rows are chat messages but the tokenizer has no chat template, so nothing says how a server would "
                "lay them out. Name a Jinja file with `data.chat_template`, or give rows of `prompt` and `completion`."
            )
        stop_tokens = [str(tokenizer.convert_ids_to_tokens(id)) for id in stop_ids]
        self.stops = _any_of([*stop_tokens, *([tokenizer.eos_token] if tokenizer.eos_token else [])])
        self.specials = _any_of(tokenizer.get_added_vocab())
        self.controls = _any_of(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)

    def render(self, conversation: Conversation, messages: list[Message], generate: bool = False) -> str:
        """The text of `messages`, with the conversation's tools; with the generation prompt where `generate`.

        Raises:
            ValueError: the template refuses them; with the row and the template's own words.
        """
        try:
            return self._render(conversation, messages, generate)
        except REFUSALS as error:
            if any(message.get("tool_calls") for message in messages):
                return self._render_textual_arguments(conversation, messages, generate, error)
            raise _refusal(conversation, error) from error

    def _render(self, conversation: Conversation, messages: list[Message], generate: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages,
            tools=conversation.tools,
            chat_template=self.source,
            add_generation_prompt=generate,
            tokenize=False,
        )

    def _render_textual_arguments(
        self, conversation: Conversation, messages: list[Message], generate: bool, error: Exception
    ) -> str:
        """Some templates concatenate a tool call's arguments, so they need JSON text where others need the object."""
        try:
            return self._render(conversation, [_with_textual_arguments(message) for message in messages], generate)
        except REFUSALS:
            raise _refusal(conversation, error) from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read the chat template {path} (`data.chat_template`): {error}.") from error


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any of `tokens`, the longest first; never matches where there are none."""
    ordered = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _refusal(conversation: Conversation, error: Exception) -> ValueError:
    roles = ", ".join(message["role"] for message in conversation.messages[:8])
    return ValueError(
        f"{conversation.source}: the chat template refuses this conversation (roles: {roles}): "
        f"{type(error).__name__}: {str(error).rstrip('.')}. Change the row, or give another template with "
        "`data.chat_template`."
    )


def _with_textual_arguments(message: Message) -> Message:
    calls: list[dict[str, Any]] | None = message.get("tool_calls")
    return {**message, "tool_calls": [_textual(call) for call in calls]} if calls else message


def _textual(call: dict[str, Any]) -> dict[str, Any]:
    inner = call.get("function", call)
    if "arguments" not in inner or isinstance(inner["arguments"], str):
        return call
    inner = {**inner, "arguments": json.dumps(inner["arguments"], ensure_ascii=False)}
    return {**call, "function": inner} if "function" in call else inner
