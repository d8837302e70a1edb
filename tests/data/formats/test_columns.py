"""Mappings of columns: plain names, Jinja, and its sandbox."""

from typing import Any

import pytest

from lorica.data.formats import Completion, Text

MAPPING = {"prompt": "question", "completion": "answer"}


def test_plain_names(read: Any) -> None:
    [one] = read({"question": "q", "answer": "a", "id": 1}, columns=MAPPING)
    assert one == Completion("x:1", "q", "a", 1.0)
    assert (read.format, read.names) == ("prompt-completion", ["field 'id' is not read"])


@pytest.mark.parametrize(
    ("expression", "made"),
    [
        ("{{ a }}\n", "é\n"),
        ("{{ a }}-{{ b[0] }}", "é-1"),
        ("Q: {{ a | upper }}{% if c %} ({{ c }}){% endif %}", "Q: É"),
        ("{{ b | join(', ') }}", "1, 2"),
        ("{{ 'yes' if b[1] == 2 else 'no' }}", "yes"),
    ],
)
def test_expressions(read: Any, expression: str, made: str) -> None:
    assert read.one({"a": "é", "b": [1, 2], "c": ""}, columns={"text": expression}) == Text("x:1", made, 1.0)


def test_an_expression_gives_its_value(read: Any) -> None:
    row = {"turns": [{"who": "user", "said": "q"}, {"who": "assistant", "said": "a"}], "w": 0.5}
    listed = "{{ turns }}"
    with pytest.raises(ValueError, match="a message needs `role`"):
        read(row, columns={"messages": listed}, format="messages")
    row["turns"] = [{"role": turn["who"], "content": turn["said"]} for turn in row["turns"]]
    one = read.one(row, columns={"messages": listed, "weight": "{{ w * 2 }}"})
    assert (one.weights, [message["content"] for message in one.messages]) == ([0.0, 1.0], ["q", "a"])


def test_names_that_are_no_identifiers(read: Any) -> None:
    row = {"The question?": "q", "my-answer": "a"}
    one = read.one(row, columns={"prompt": "{{ row['The question?'] }}\n", "completion": "my-answer"})
    assert (one, read.names) == (Completion("x:1", "q\n", "a", 1.0), [])


def test_a_mapping_chooses_among_formats(read: Any) -> None:
    row = {"text": "t", "label": "card", "prompt": "p", "completion": "c"}
    one = read.one(row, columns={"prompt": "text", "completion": "label"})
    assert (one.prompt, one.completion) == ("t", "card")
    assert read.names == ["field 'prompt' is not read", "field 'completion' is not read"]


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (
            {"prompt": "qestion", "completion": "answer"},
            r"the column 'qestion', which this row does not have.*'question'",
        ),
        ({"text": "{{ qestion }}"}, "cannot make 'text' of '{{ qestion }}': 'qestion' is undefined"),
        ({"text": "{{ question.x.y }}"}, "cannot make 'text'"),
        ({"text": "{{ 1 / 0 }}"}, "cannot make 'text'.*division by zero"),
        ({"text": "{{ question"}, "'text' is no valid Jinja expression"),
        ({"text": "{% for x %}"}, "'text' is no valid Jinja expression"),
    ],
)
def test_mappings_that_fail(read: Any, mapping: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read({"question": "q", "answer": "a"}, columns=mapping)


@pytest.mark.parametrize(
    "expression",
    [
        "{{ a.__class__ }}",
        "{{ a.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.format.__globals__ }}",
        "{{ '{0.__class__}'.format(a) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ b.append(3) }}",
        "{% set x = b.append(3) %}{{ b }}",
        "{{ self.__init__.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ range(10 ** 9) | list }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_holds(read: Any, expression: str) -> None:
    values = [1, 2]
    with pytest.raises(ValueError, match=r"data\.columns"):
        read({"a": "text", "b": values}, columns={"text": expression})
    assert values == [1, 2]
