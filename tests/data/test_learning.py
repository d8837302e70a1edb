"""Turns found by layouts, against the definition: the server's prompt rendered for each turn, one after another."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from makers import CHATML, byte_level
from nasty import NASTY
from served import SERVED

from lorica.data.findings import Findings
from lorica.data.layout import OneText, Renderings, joined
from lorica.data.learning import Layouts, locate
from lorica.data.messages import Conversation
from lorica.data.outline import answers, outline
from lorica.data.template import ChatTemplate
from lorica.data.turns import serve

SPECIALS = ("<|im_start|>", "<tool>")
WORDS = ["cat", "a", "acat", "bb", "aa a", " cat", "cat\n", "\n", "", "b\r\n", "<think>\nx", "<think>x</think>\n\nb",
         "<|im_start|>assistant\n", "<|im_end|>", "é😀", "\u2028a\u2029", "\U000f0000", "\ue000", '"q"\\', "<tool>",
         "user", "x" * 40]  # fmt: skip
CONTENT = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))


def chat(source: str, name: str = "") -> ChatTemplate:
    tokenizer = byte_level(specials=SPECIALS)
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, None)


TEMPLATES = {name: chat(source) for name, source in NASTY.items()}


def prepared(template: ChatTemplate, contents: list[str], system: bool = False, **more: Any) -> Conversation:
    roles = [*["system"] * system, *["user", "assistant"] * len(contents)]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return template.prepared(Conversation("rows:1", messages, [1.0] * len(messages), **more))


def outcome(work: Any) -> Any:
    """What came of it, with all that was noticed; or the refusal."""
    findings = Findings()
    try:
        found = work(findings)
    except ValueError as error:
        return str(error)
    return found if found is None else (found, sorted((it.name, it.message) for it in findings.all()))


def check(template: ChatTemplate, conversation: Conversation) -> bool:
    """Whether there was a layout, and then it gave what the definition gives."""
    wanted = answers(conversation)
    if not wanted:
        return False
    found = outcome(lambda findings: locate(template, conversation, wanted, findings))
    slow = outcome(lambda findings: joined(serve(template, conversation, index, findings) for index in wanted))
    if found is not None:
        assert found == slow
    return found is not None


@pytest.mark.parametrize("name", NASTY)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(CONTENT, min_size=2, max_size=6), system=st.booleans())
@example(contents=["cat", "b", "bb", "acat"], system=False)
@example(contents=["a", "x", "cat", "cat"], system=False)
@example(contents=["bb", "bb", "bb", "aa a"], system=False)
@example(contents=["ta", "c", "tac", "b"], system=False)
def test_nasty_templates(name: str, contents: list[str], system: bool) -> None:
    check(TEMPLATES[name], prepared(TEMPLATES[name], contents, system))


# What a layout serves, so that the test above tests it. All others may go the slow way.
SERVED_BY_LAYOUT = {"plain", "trims", "trims users only", "trims all but the last", "prompt depends on a word",
                    "prompt depends on equality", "prompt depends on two texts", "merges the system message",
                    "generation blocks", "numbers its turns", "counts down", "says how many", "no stop",
                    "ends turns with the next", "prompt depends on the turn"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SERVED_BY_LAYOUT))
def test_layouts_are_used(name: str) -> None:
    template = chat(NASTY[name])
    rounds = [
        check(template, prepared(template, [f"{word}{number}" for word in ("u", "v", "w", "y")])) for number in range(3)
    ]
    assert rounds[-1]


@pytest.mark.parametrize("name", sorted(SERVED))
def test_real_templates(shared: Path, name: str) -> None:
    """Plain, with a system message, with tools, with reasoning: what a layout gives is what the definition gives."""
    served = SERVED[name]
    tokenizer = byte_level(served.eos, served.bos, served.stops + served.specials)
    path = shared / "chat_templates" / f"{name}.jinja"
    template = ChatTemplate(tokenizer, str(path), tokenizer.convert_tokens_to_ids(list(served.stops)))
    tool = {"type": "function", "function": {"name": "lookup", "description": "d", "parameters": {"properties": {}}}}
    used = 0
    for number in range(3):
        texts = [f"{word} {number}" for word in ("one", "two", " three\n", "four", "five", "<think>six</think>")]
        for system in (False, True):
            for tools in (None, [tool]):
                conversation = prepared(template, texts[: 4 + 2 * (number == 2)], system, tools=tools)
                used += check(template, conversation)
        for messages in (_calling(number), _reasoning(number)):
            used += check(template, template.prepared(Conversation("rows:1", messages, [1.0] * 4, [tool])))
    assert used >= 4


def _calling(number: int) -> list[dict[str, Any]]:
    call = {"id": "call00001", "type": "function", "function": {"name": "lookup", "arguments": {"x": "é"}}}
    return [
        {"role": "user", "content": f"U {number}"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "lookup", "content": json.dumps({"y": number})},
        {"role": "assistant", "content": f"A {number}"},
    ]


def _reasoning(number: int) -> list[dict[str, Any]]:
    said = [{"role": "user", "content": f"U {number}"}, {"role": "assistant", "content": f"A {number}"}]
    return [*said, {"role": "user", "content": "V"}, said[1] | {"reasoning_content": f"because {number}"}]


def test_what_begins_alike_is_learned_once() -> None:
    """40 conversations of up to 40 turns, 820 turns in all: what is rendered grows with the number of conversations."""
    template, count = chat(CHATML), 0
    original = template.render

    def counting(*arguments: Any, **keywords: Any) -> str:
        nonlocal count
        count += 1
        return original(*arguments, **keywords)

    template.render = counting  # type: ignore[method-assign]
    template.learned["layouts"] = Layouts(template)
    for turns in range(1, 41):
        conversation = prepared(template, [f"text {turns}.{number}" for number in range(2 * turns)])
        found = locate(template, conversation, answers(conversation), Findings())
        assert found is not None or turns < 4  # until then, most turns are new
    assert count < 40 * 10


@pytest.mark.parametrize(("source", "kind"), [(CHATML, OneText), (NASTY["trims all but the last"], Renderings)])
def test_the_two_forms(source: str, kind: type) -> None:
    template = chat(source)
    layouts = Layouts(template)
    conversation = prepared(template, ["u", "a", "v", "b"])
    sketch, texts = outline(conversation)
    assert layouts.layout(conversation, sketch, texts) is None  # of one conversation nothing is learned
    assert isinstance(layouts.layout(conversation, sketch, texts), kind)


def test_answers_in_a_row() -> None:
    """Two turns that end one conversation are two, also when learned."""
    template = chat(CHATML)
    for number in range(3):
        said = [("user", f"u {number}"), ("assistant", f"a {number}"), ("assistant", f"b {number}")]
        messages = [{"role": role, "content": content} for role, content in said]
        used = check(template, template.prepared(Conversation("rows:1", messages, [1.0] * 3)))
    assert used


@pytest.mark.parametrize("character", ["\u2028", "\U000f0000"])
def test_what_passes_for_a_mark(character: str) -> None:
    """A character of marks beside the texts, here in a role's name and among the tools, is not taken for one."""
    source = "{{ tools }}" + CHATML.replace("{{ m.role }}", "{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}")
    template = chat(source)
    for number in range(3):
        for tools, name in ((None, character), ([{"a": [character]}], "n")):
            messages = [{"role": "user", "content": f"u {number}", "name": name}, {"role": "assistant", "content": "a"}]
            check(template, template.prepared(Conversation("rows:1", messages, [1.0] * 2, tools)))
