"""Conversations of every spelling: messages with tools and parts, ShareGPT, Alpaca; and what each message weighs."""

import json
from typing import Any

import pytest

from lorica.data.formats import Completion

TOOL = {"name": "sum", "description": "adds", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": TOOL}
CALL = {"name": "sum", "arguments": {"a": 1}}


def turns(*contents: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def contents(record: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in record.messages]


@pytest.mark.parametrize("tools", [[TOOL], [WRAPPED], json.dumps([TOOL]), [json.dumps(WRAPPED)]])
def test_tools_however_they_are_given(read: Any, tools: Any) -> None:
    assert read.one({"messages": turns("q", "a"), "tools": tools}).tools == [WRAPPED]


def test_tool_calls_and_results(read: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}}
    messages = [
        *turns("q"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ]
    one = read.one({"messages": messages, "tools": None})
    assert one.messages[1] == {
        "role": "assistant", "content": "", "tool_calls": [call | {"function": {"name": "sum", "arguments": {"a": 1}}}],
    }  # fmt: skip
    assert (one.messages[2], one.weights, one.tools) == (messages[2], [0.0, 1.0, 0.0], None)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": turns("q"), "tools": "not json"}, "tools are not JSON"),
        ({"messages": turns("q"), "tools": 5}, "`tools` must be a list"),
        ({"messages": []}, "messages must be a list of messages that is not empty"),
        ({"messages": [{"content": "q"}]}, "a message needs `role`"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: `content` must be text"),
        ({"messages": [{"role": "assitant", "content": "a"}]}, r"did you mean 'assistant'\?"),
        ({"messages": [{"role": "user", "contant": "a"}]}, r"unknown key 'contant'; did you mean 'content'\?"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "a tool call must be"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "`arguments` are not JSON",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "u"}]}]}, "Images and sound are not read"),
        ({"messages": turns("q"), "weight": float("inf")}, "`weight` must be one finite number"),
        ({"messages": turns("q"), "train": "maybe"}, "`train` must be true or false"),
    ],
)
def test_faults_name_the_message(read: Any, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"x:1.*{says}"):
        read(row, format="messages")


def test_content_parts_are_joined_and_may_weigh_for_themselves(read: Any) -> None:
    parts = [
        {"type": "text", "text": "keep "},
        {"type": "text", "text": "é not ", "train": False},
        {"type": "text", "text": "twice", "weight": 2},
    ]
    one = read.one({"messages": [*turns("q"), {"role": "assistant", "content": parts}], "weight": 0.5})
    assert one.messages[1]["content"] == "keep é not twice"
    assert one.weights == [0.0, 0.5]
    assert one.parts == {1: [(5, 11, 0.0), (11, 16, 1.0)]}


def test_parts_of_reasoning_and_calls(read: Any) -> None:
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "value": "so"},
        {"type": "tool_call", "value": json.dumps(CALL)},
    ]
    message = read.one({"messages": [*turns("q"), {"role": "assistant", "content": parts}]}).messages[1]
    assert (message["content"], message["reasoning_content"]) == ("so", "hm")
    assert message["tool_calls"][0]["function"] == CALL


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [0, 0, 1, 0, 1]),
        ({"train_on": "all"}, [1, 1, 1, 1, 1]),
        ({"train_on": "last"}, [0, 0, 0, 0, 1]),
        ({"role_weights": {"user": 0.25, "assistant": 0.5}}, [0, 0.25, 0.5, 0.25, 0.5]),
        ({"train_on": "all", "role_weights": {"system": 0}}, [0, 1, 1, 1, 1]),
        ({"train_on": "last", "role_weights": {"assistant": 0.5}}, [0, 0, 0, 0, 0.5]),
    ],
)
def test_what_is_trained(read: Any, options: dict[str, Any], weights: list[float]) -> None:
    messages = [{"role": "system", "content": "s"}, *turns("a", "b", "c", "d")]
    assert read.one({"messages": messages}, **options).weights == weights


def test_weights_of_rows_and_messages_multiply(read: Any) -> None:
    messages = turns("a", "b", "c", "d", "e", "f")
    messages[1]["train"], messages[3]["weight"], messages[4]["train"] = False, 0.3, True
    one = read.one({"messages": messages, "weight": 0.5})
    assert one.weights == [0.0, 0.0, 0.0, 0.15, 0.5, 0.5]
    assert not any({"train", "weight"} & message.keys() for message in one.messages)


def test_reasoning_is_dropped_where_asked(read: Any) -> None:
    messages = [*turns("q"), {"role": "assistant", "content": "<think>hm</think>\n\na", "reasoning_content": "r"}]
    row = {"messages": messages}
    assert read.one(row, reasoning="drop").messages[1] == {"role": "assistant", "content": "a"}
    assert read.one(row, reasoning="keep").reasoning == "keep"
    with pytest.raises(ValueError, match="<think> without </think>"):
        read({"messages": [*turns("q"), {"role": "assistant", "content": "<think>hm"}]}, reasoning="drop")


def test_roles_of_other_formats(read: Any) -> None:
    names = ["System", "human", "gpt", "Function", "model"]
    one = read.one({"messages": [{"role": name, "content": "x"} for name in names]})
    assert [role for role, _ in contents(one)] == ["system", "user", "assistant", "tool", "assistant"]
    assert one.weights == [0, 0, 1, 0, 1]


def test_openais_first_form_of_a_call(read: Any) -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "sum", "arguments": '{"a": 1}'}}
    one = read.one({"messages": [*turns("q"), called, {"role": "function", "name": "sum", "content": "1"}]})
    assert one.messages[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool", "name": "sum", "content": "1"},
    ]


def test_sharegpt_with_calls_that_answers_find(read: Any) -> None:
    call = {"name": "sum", "arguments": {"a": 1}}
    one = read.one(
        {
            "system": "s",
            "tools": json.dumps([TOOL]),
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": "<think>t</think>" + json.dumps([call, call])},
                {"from": "observation", "value": "1"},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "a", "weight": 0.5},
            ],
        }
    )
    assert [role for role, _ in contents(one)] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert one.messages[2]["content"] == "<think>t</think>"
    ids = [made["id"] for made in one.messages[2]["tool_calls"]]
    assert [message["tool_call_id"] for message in one.messages[3:5]] == ids and len(set(ids)) == 2
    assert (one.weights, one.tools) == ([0, 0, 1, 0, 0, 0.5], [WRAPPED])


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        ({"from": "gtp", "value": "a"}, r"conversations\[1\]: unknown role 'gtp'; did you mean 'gpt'\?"),
        ({"from": "gpt", "vale": "a"}, 'expected {"from": ..., "value": ...}'),
        ({"from": "gpt", "value": "a", "wieght": 1}, r"unknown key 'wieght'; did you mean 'weight'\?"),
        ({"from": "function_call", "value": "{}"}, "a function_call must be"),
        ({"from": "function_call", "value": "sum(1)"}, "a function_call must be"),
        ({"from": "gpt", "value": 5}, "`content` must be text"),
    ],
)
def test_faults_of_sharegpt(read: Any, turn: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"x:1, {says}|x:1.*{says}"):
        read({"conversations": [{"from": "human", "value": "q"}, turn]})


def test_alpaca_with_history(read: Any) -> None:
    row = {"instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["h", "ha"], ["g", "ga"]]}
    one = read.one(row)
    assert contents(one) == [
        ("system", "s"), ("user", "h"), ("assistant", "ha"), ("user", "g"), ("assistant", "ga"), ("user", "q\ni"),
        ("assistant", "a"),
    ]  # fmt: skip
    assert one.weights == [0, 0, 1, 0, 1, 0, 1]
    assert read.one(row, train_on="last").weights == [0, 0, 0, 0, 0, 0, 1]
    assert contents(read.one({"instruction": "q", "input": "", "output": ""})) == [("user", "q"), ("assistant", "")]
    with pytest.raises(ValueError, match="`history` must be a list of"):
        read(row | {"history": [["only"]]})


def test_pairs_of_text_and_of_messages(read: Any) -> None:
    assert read.one({"prompt": "q", "completion": "a", "weight": 0.5}) == Completion("x:1", "q", "a", 0.5)
    assert read.one({"prompt": "q", "completion": "a"}, train_on="all") == Completion("x:1", "q", "a", 1.0, 1.0)
    for prompt, completion in (
        (turns("q"), [{"role": "assistant", "content": "a"}]),
        (turns("q"), {"role": "assistant", "content": "a"}),
        (turns("q"), "a"),
        ("q", [{"role": "assistant", "content": "a"}]),
        ([{"from": "human", "value": "q"}], [{"from": "gpt", "value": "a"}]),
    ):
        one = read.one({"prompt": prompt, "completion": completion})
        assert (contents(one), one.weights) == ([("user", "q"), ("assistant", "a")], [0.0, 1.0])


def test_answers_in_a_prompt_are_context(read: Any) -> None:
    row = {"prompt": turns("a", "b", "c"), "completion": "d"}
    assert read.one(row).weights == [0, 0, 0, 1]
    assert read.one(row, train_on="all").weights == [1, 1, 1, 1]
