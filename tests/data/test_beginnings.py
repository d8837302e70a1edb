"""Beginnings told by one rendering of the whole conversation, against the rendering of each."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import CHATML, byte_level
from nasty import HEAD, NASTY, PROMPT, TURN, each
from served import SERVED

from lorica.data.beginnings import END, Beginnings
from lorica.data.conversations import served
from lorica.data.findings import Findings
from lorica.data.layout import joined
from lorica.data.messages import Conversation
from lorica.data.outline import answers
from lorica.data.template import ChatTemplate
from lorica.data.turns import serve

# Templates that look at later messages, or at where they end, or write something else behind them, each in its own way.
LOOKING = {
    "last": each("{{ 'last ' if loop.last }}" + TURN),
    "length": each("{{ loop.length }}" + TURN),
    "next": each("{{ loop.nextitem.content }}" + TURN),
    "number": each("{{ messages | length }}" + TURN),
    "next by index": each("{% if messages[loop.index] is defined %}{{ messages[loop.index].role }}{% endif %}" + TURN),
    "last by index": each("{{ messages[-1].role }}" + TURN),
    "beginning": each("{{ (messages[:2] | list)[-1].role }}" + TURN),
    "rest": each("{% if messages[1:] %}{{ 'more' }}{% endif %}" + TURN),
    "rest of the rest": each("{% if messages[1:][1:] %}{{ 'more' }}{% endif %}" + TURN),
    "comparison": each("{{ messages[1:] == messages[2:] }}" + TURN),
    "short": each("{{ 'short ' if messages | length < 3 }}" + TURN),
    "long": each("{{ 'long ' if 2 < messages | length }}" + TURN),
    "longer than nothing": each("{{ 'some ' if messages | length > 0 }}" + TURN),
    "membership": each("{{ 'in ' if {'role': 'user', 'content': 'b'} in messages }}" + TURN),
    "text": each("{{ messages | string | length }}" + TURN),
    "selection": each("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}" + TURN),
    "numbers": each("{{ messages | map(attribute='content') | join(',') }}" + TURN),
    "first": each("{{ (messages | first).content }}" + TURN),
    "reversed": "{% for m in messages[::-1] %}" + TURN + "{% endfor %}" + PROMPT,
    "without the first": "{% for m in messages[1:] %}" + TURN + "{% endfor %}" + PROMPT,
    "first two alone": "{% for m in [messages[0], messages[1]] %}" + TURN + "{% endfor %}" + PROMPT,
    "only users": "{% for m in messages if m.role == 'user' %}" + TURN + "{% endfor %}" + PROMPT,
    "skips": each("{% if loop.index == 2 %}{% continue %}{% endif %}" + TURN),
    "stops": each("{% if loop.index == 3 %}{% break %}{% endif %}" + TURN),
    "twice": each(TURN, "") + each(),
    "a loop behind": each() + "{% for c in 'ab' %}{{ c }}{% endfor %}",
    "ends with the last": each(prompt=PROMPT + "{{ messages[-1].content }}"),
    "ends with a count": each(
        "{% set n.a = n.a + 1 %}" + TURN, PROMPT + "{{ n.a }}", before="{% set n = namespace(a=0) %}"
    ),
    "ends with a list": each(prompt=PROMPT + "{{ rest | length }}", before="{% set rest = messages[1:] %}"),
    "ends with tools": each(prompt=PROMPT + "{{ tools }}"),
    "generates inside": each(TURN + "{{ '!' if add_generation_prompt }}"),
    "generates before": each(before="{{ '!' if add_generation_prompt }}"),
    "through a macro": "{% macro all(l) %}{{ l | length }}{% endmacro %}" + each("{{ all(messages) }}" + TURN),
    "without messages": "{{ messages[0].role }}" + PROMPT,
    "takes them apart": each("{% set a = messages[0] %}{{ a.role }}" + TURN, before="{% set b, c = messages[:2] %}"),
    "else": "{% for m in messages %}" + TURN + "{% else %}{{ 'none' }}{% endfor %}" + PROMPT,
}  # fmt: skip
TELLING = {"longer than nothing", "first", "rest", "without the first", "else"}
WORDS = st.sampled_from(["a", "b", "", " c\n", "<|im_end|>", END, "é", "user"])


def conversation(template: ChatTemplate, contents: list[str], **more: Any) -> Conversation:
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return template.prepared(Conversation("rows:1", messages, [1.0] * len(messages), **more))


def rendered(template: Any, whole: Conversation) -> list[str]:
    """Each beginning, without and with the generation prompt; or why not."""
    found = []
    for count in range(1, len(whole.messages) + 1):
        for generate in (False, True):
            try:
                found.append(template.render(whole, whole.messages[:count], generate))
            except ValueError as error:
                found.append(str(error))
    return found


def chat(source: str, tokenizer: Any = None) -> ChatTemplate:
    tokenizer = tokenizer or byte_level(specials=("<|im_start|>",))
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, None)


TEMPLATES = {name: chat(source) for name, source in (NASTY | LOOKING).items()}


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=st.lists(st.lists(WORDS, min_size=5, max_size=8), min_size=1, max_size=3))
def test_beginnings_are_their_renderings(name: str, several: list[list[str]]) -> None:
    template = TEMPLATES[name]
    beginnings = Beginnings(template)
    for contents in several:
        for tools in (None, [{"name": "t"}]):
            whole = conversation(template, contents, tools=tools)
            assert rendered(beginnings, whole) == rendered(template, whole)


@pytest.mark.parametrize("name", LOOKING)
def test_which_templates_tell(name: str) -> None:
    """All but the first beginning where that one is told; none where the template looks on from the start."""
    beginnings = Beginnings(TEMPLATES[name])
    whole = conversation(TEMPLATES[name], list("uavbwc"))
    told = sum(count in beginnings.ends(whole) for count in range(2, 7))
    assert (told == 5) == (name in TELLING)


# Templates that write message after message.
TELL = {"Bielik-11B-v3.0-Instruct", "CohereForAI-c4ai-command-r7b-12-2024-tool_use", "Kimi-K2-Instruct",
        "Qwen-Qwen2.5-7B-Instruct", "Qwen3-Coder", "google-gemma-2-2b-it", "meta-llama-Llama-3.1-8B-Instruct",
        "meta-llama-Llama-3.2-3B-Instruct", "microsoft-Phi-3.5-mini-instruct",
        "unsloth-mistral-Devstral-Small-2507"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SERVED))
def test_real_templates(shared: Path, name: str) -> None:
    tokenizer = byte_level(SERVED[name].eos, SERVED[name].bos, SERVED[name].stops + SERVED[name].specials)
    template = ChatTemplate(tokenizer, str(shared / "chat_templates" / f"{name}.jinja"))
    beginnings = Beginnings(template)
    plain = conversation(template, list("uavbwc"))
    assert beginnings.tells(plain) == (name in TELL)
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"properties": {}}}}
    for messages in ([], [{"role": "system", "content": "S"}]):
        for tools in (None, [tool]):
            whole = template.prepared(Conversation("rows:1", [*messages, *calling(), *calling()], [], tools))
            assert rendered(beginnings, whole) == rendered(template, whole)
    assert rendered(beginnings, plain) == rendered(template, plain)


def calling() -> list[dict[str, Any]]:
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"x": "é"}}}
    return [
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "", "reasoning_content": "why", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "{}"},
        {"role": "assistant", "content": "A", "reasoning_content": "because"},
    ]


def test_long_conversations_are_rendered_once() -> None:
    """Of 200 messages, each time other ones: what a server sees of each turn, in a few renderings a conversation."""
    template, count = chat(CHATML), 0
    original = ChatTemplate._render

    class Counting(ChatTemplate):
        def _render(self, *arguments: Any) -> str:
            nonlocal count
            count += 1
            return original(self, *arguments)

    template.__class__ = Counting
    for number in range(5):
        whole = conversation(template, [f"text {number}.{turn}" for turn in range(200)])
        found = served(template, whole, Findings())
        before = count
        assert found == joined(serve(template, whole, index, Findings()) for index in answers(whole))
        assert count - before == 200
        count = before
    assert count < 10


def test_a_template_that_refuses_a_later_message() -> None:
    """Its beginnings are well all the same."""
    template = chat("{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('no') }}{% endif %}"
                    + HEAD + "{{ m.content }}<|im_end|>\n{% endfor %}" + PROMPT)  # fmt: skip
    whole = conversation(template, ["u", "a", "v", "no"])
    assert rendered(Beginnings(template), whole) == rendered(template, whole)
    assert rendered(template, whole)[-1].endswith("`data.chat_template`.")


def test_a_template_with_a_clock() -> None:
    """Two renderings of it never begin alike, so that none is taken for the beginning of another."""
    template = chat("{{ strftime_now('%H:%M:%S.%f') }}" + each())
    beginnings, whole = Beginnings(template), conversation(template, list("uavbwcxd"))
    time = len("00:00:00.000000")
    for count in range(1, 9):
        for generate in (False, True):
            messages = whole.messages[:count]
            found = beginnings.render(whole, messages, generate)
            assert found[time:] == template.render(whole, messages, generate)[time:]
