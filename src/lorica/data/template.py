"""A chat template as the server uses it: rendering, and the tokens on which generation stops.

Rendering is transformers' own (a sandboxed Jinja, compiled once; `sandbox.py`), so training sees byte for byte what
serving does. What transformers does to the messages before each rendering is done here once a conversation, by the
same functions: that is most of the time of a short rendering. A template that does not end is stopped by an alarm,
which only the main thread of a POSIX system has.
"""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Template, TemplateError

from lorica.data.messages import Conversation, Message
from lorica.data.parts import as_parts, wants_parts
from lorica.data.sandbox import served_environment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TIME_LIMIT = 20.0  # seconds for one rendering, which takes microseconds a message


class RenderingTimeout(Exception):
    """The template did not end in time."""


# What a sandboxed template can raise: its own refusals, and the slips of code that meets a message it did not expect.
REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
            MemoryError, RenderingTimeout)  # fmt: skip


class ChatTemplate:
    """Renders conversations with the tokenizer's template, or with the one in the file `path`.

    `stops` matches the stop tokens in rendered text, `specials` any added token of the tokenizer, `controls` those of
    them that are special: what text of users should not contain.

    Args:
        stop_ids: the ids on which the server stops (`eos_token_id` of the generation config); the tokenizer's
            `eos_token` is always one of them.
        variables: given to every rendering, such as `{"enable_thinking": False}`; the server must be given them too.

    Raises:
        ValueError: there is no template, or its file cannot be read.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        path: str | None,
        stop_ids: Sequence[int] = (),
        variables: Mapping[str, Any] | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
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
        self._variables = {**tokenizer.special_tokens_map, **(variables or {})}
        self._time_limit, self._armed = time_limit, False
        self._compile: Callable[[str], Template] = _compile_as_served
        self._compiled: dict[bool, Template] = {}
        self.learned: dict[str, Any] = {}  # by others, who learn how it lays out conversations

    def compiled_by(self, compile: Callable[[str], Template]) -> ChatTemplate:
        """The same template, compiled by another function than the server's."""
        other = copy(self)
        other._compile, other._compiled, other._armed = compile, {}, False
        return other

    def prepared(self, conversation: Conversation) -> Conversation:
        """The conversation as transformers hands it to a template: plain values, no nulls, reasoning by each name."""
        if not conversation.tools and all(map(_is_plain, conversation.messages)):
            return conversation
        from transformers.utils.chat_template_utils import _alias_reasoning_fields, _plain_template_data

        messages = [
            {k: v for k, v in message.items() if v is not None} if None in message.values() else message
            for message in conversation.messages
        ]
        messages = _alias_reasoning_fields(_plain_template_data(messages))
        tools = _plain_template_data(conversation.tools) if conversation.tools else conversation.tools
        return replace(conversation, messages=messages, tools=tools)

    def render(self, conversation: Conversation, messages: list[Message], generate: bool = False) -> str:
        """The text of prepared `messages`, with the conversation's tools; with the generation prompt where `generate`.

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
        template = self._template(tools=conversation.tools is not None)
        given: Sequence[Message] = as_parts(messages) if self._wants_parts(conversation) else messages
        return self._run(template, conversation, given, generate)

    def _run(
        self, template: Template, conversation: Conversation, messages: Sequence[Message], generate: bool = False
    ) -> str:
        with self.in_time():
            self._arm(self._time_limit)
            try:
                return template.render(
                    messages=messages,
                    tools=conversation.tools,
                    documents=None,
                    add_generation_prompt=generate,
                    **self._variables | conversation.variables,
                )
            finally:
                self._arm(0)

    def _wants_parts(self, conversation: Conversation) -> bool:
        """Learned of the template as the server has it, with the tools of the first conversation that asks."""
        key = f"parts, {'with' if conversation.tools is not None else 'without'} tools"
        if key not in self.learned:
            served = _compile_as_served(self._source(conversation.tools is not None))
            self.learned[key] = wants_parts(lambda messages: self._run(served, conversation, messages), REFUSALS)
        return bool(self.learned[key])

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Within, a rendering that takes too long is stopped. Entered once for many: it costs as much as one."""
        if self._armed or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, _time_out)
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            signal.signal(signal.SIGALRM, before)

    def _arm(self, seconds: float) -> None:
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _template(self, tools: bool) -> Template:
        """Compiled; a tokenizer may have a template of its own for conversations with tools."""
        if tools not in self._compiled:
            self._compiled[tools] = self._compile(self._source(tools))
        return self._compiled[tools]

    def _source(self, tools: bool) -> str:
        return str(self.tokenizer.get_chat_template(self.source, [] if tools else None))

    def _render_textual_arguments(
        self, conversation: Conversation, messages: list[Message], generate: bool, error: Exception
    ) -> str:
        """Some templates concatenate a tool call's arguments, so they need JSON text where others need the object."""
        try:
            return self._render(conversation, [_with_textual_arguments(message) for message in messages], generate)
        except REFUSALS:
            raise _refusal(conversation, error) from error


def _is_plain(message: Message) -> bool:
    """Whether nothing of a message has to be made plain or given other names."""
    return len(message) == 2 and type(message.get("role")) is str and type(message.get("content")) is str


@lru_cache(maxsize=16)
def _compile_as_served(source: str) -> Template:
    return served_environment().from_string(source)


def _time_out(number: int, frame: object) -> None:
    raise RenderingTimeout("it did not end in time; it may loop forever")


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
