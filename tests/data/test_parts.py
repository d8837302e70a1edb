"""What templates are given beside plain messages: contents as lists of parts, and values that a row brings."""

import json
from pathlib import Path
from typing import Any

import pytest
from makers import byte_level, data_config

from lorica.data import read_examples
from lorica.run.answer import _render

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = PARTS.replace(
    "{% for part", "{% if m.content is string %}{{ raise_exception('no part') }}{% endif %}{% for part"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>' if think else '<plain>' }}{% endif %}"
)


def tokenizer(template: str) -> Any:
    made = byte_level(specials=("<|im_start|>", "<think>", "<plain>"))
    made.chat_template = template
    return made


def turns(*contents: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]


def read(tokenizer: Any, folder: Path, *rows: dict[str, Any]) -> Any:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(data_config(path), tokenizer, 10**4)


@pytest.mark.parametrize("template", [PARTS, STRICT])
@pytest.mark.parametrize("several", [1, 5])
def test_a_template_that_writes_parts_only_is_given_parts(tmp_path: Path, template: str, several: int) -> None:
    made = tokenizer(template)
    rows = [turns("hello", f"the cat {i}", "more?", "yes") for i in range(several)]
    found = read(made, tmp_path, *({"messages": messages} for messages in rows))
    for example, messages in zip(found.examples, rows, strict=True):
        expected = made.apply_chat_template(in_parts(messages), tokenize=False).rstrip("\n")
        assert made.decode(example.input_ids) == expected
        trained = made.decode([id for id, w in zip(example.input_ids, example.weights, strict=True) if w])
        assert trained == f"{messages[1]['content']}<|im_end|>yes<|im_end|>"
    prompt = made.apply_chat_template(in_parts(turns("hello")), tokenize=False, add_generation_prompt=True)
    assert _render(made, turns("hello"), {}) == prompt


def test_a_template_that_writes_both_is_given_text(tmp_path: Path) -> None:
    either = PARTS.replace("{% for part", "{% if m.content is string %}{{ m.content }}{% else %}{% for part")
    made = tokenizer(either.replace("{% endfor %}<|im_end|>", "{% endfor %}{% endif %}<|im_end|>"))
    [example] = read(made, tmp_path, {"messages": turns("hello", "the cat")}).examples
    assert "hello" in made.decode(example.input_ids) and "the cat" in made.decode(example.input_ids)


@pytest.mark.parametrize("messages", [2, 8, 30])
def test_a_row_brings_values_for_its_template(tmp_path: Path, messages: int) -> None:
    """As TRL's column of that name; rows of one outline and other values are not laid out alike."""
    made = tokenizer(THINKING)
    rows = [turns(*(f"text {i} {row}" for i in range(messages))) for row in range(6)]
    values = [{"think": True}, {"think": False}, {"think": True}, None, {"think": False}, {"think": True}]
    given = [{"messages": row, "chat_template_kwargs": value} for row, value in zip(rows, values, strict=True)]
    found = read(made, tmp_path, *given)
    for row, value in zip(rows, values, strict=True):
        mine = [e for e in found.examples if row[0]["content"] in made.decode(e.input_ids)]
        mark = "<think>" if value and value["think"] else "<plain>"
        assert mine and all(made.decode(e.input_ids).count(mark) == 1 for e in mine)
    assert not [finding for finding in found.findings if "not read" in finding.name]
