"""Telling formats apart, reading messages, and the errors for rows that are neither."""

from typing import Any

import pytest

from lorica.data.findings import Findings
from lorica.data.formats import Completion, Text, read_records
from lorica.data.messages import Conversation
from lorica.data.rows import Row

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def read(*values: dict[str, Any], format: str = "auto") -> list[Any]:
    return read_records([Row(f"rows:{i}", v) for i, v in enumerate(values, 1)], format, Findings())[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a", "id": 3}, "text"),
        ({"prompt": "a", "completion": "b"}, "prompt-completion"),
        ({"messages": [USER, ANSWER]}, "messages"),
    ],
)
def test_detected_from_the_keys(row: dict[str, Any], expected: str) -> None:
    assert read_records([Row("rows:1", row)], "auto", Findings())[1] == expected


def test_fields_that_nothing_reads_are_noted() -> None:
    findings = Findings()
    rows = [{"text": "a", "id": 1, "weight": 2}, {"text": "b", "id": 2, "instruction": "c", "tools": []}]
    read_records([Row(f"rows:{i}", row) for i, row in enumerate(rows)], "auto", findings)
    assert {finding.name: finding.rows for finding in findings.all()} == {
        "field 'id' is not read": ["rows:0", "rows:1"],
        "field 'instruction' is not read": ["rows:1"],
        "field 'tools' is not read": ["rows:1"],
    }


def test_named_format_settles_ambiguity() -> None:
    row = {"text": "all", "prompt": "a", "completion": "b", "weight": 0.5}
    assert read(row, format="text") == [Text("rows:1", "all", 0.5)]
    assert read(row, format="prompt-completion") == [Completion("rows:1", "a", "b", 0.5)]
    with pytest.raises(ValueError, match=r"rows:1.*more than one format: prompt-completion and text.*data.format"):
        read(row)


@pytest.mark.parametrize(
    ("rows", "format", "says"),
    [
        ([{"prompt": "a", "answer": "b"}], "auto", r"rows:1: cannot tell.*keys prompt, answer; expected messages"),
        ([{"message": [USER]}], "auto", "Did you mean 'messages' where it says 'message'"),
        ([{"prompt": "a", "completoin": "b"}], "auto", "Did you mean 'completion' where it says 'completoin'"),
        (
            [{"text": "a"}, {"prompt": "a", "completion": "b"}],
            "auto",
            "rows:1 has the keys of text and rows:2 those of",
        ),
        ([{"text": "a"}], "messages", "rows:1: this row is not messages"),
        ([{"text": 3}], "auto", "'text' must be text; found int"),
        ([{"text": "a", "wieght": 2}], "auto", "did you mean 'weight'"),
        ([{"messages": [USER, ANSWER], "label": False}], "auto", "preference data"),
        ([{"prompt": "a", "completion": "b", "rejected": "c"}], "auto", "preference data"),
        ([{}], "auto", r"keys \(none\)"),
    ],
)
def test_errors(rows: list[dict[str, Any]], format: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(*rows, format=format)


def test_weights_of_messages_and_rows_multiply() -> None:
    messages = [USER, ANSWER | {"weight": 0.5}, USER, ANSWER | {"train": False}, USER | {"loss_weight": 0.0}, ANSWER]
    [conversation] = read({"messages": messages, "weight": 3})
    assert conversation.weights == [0, 1.5, 0, 0, 0, 3]
    assert all(set(message) == {"role", "content"} for message in conversation.messages)


def test_a_prompt_of_messages_trains_only_the_completion() -> None:
    prompt = [USER, ANSWER, USER]
    for completion in ("ho", [ANSWER]):
        [conversation] = read({"prompt": prompt, "completion": completion, "weight": 0.25})
        assert conversation == Conversation("rows:1", [*prompt, ANSWER], [0, 0, 0, 0.25])


def test_tools_calls_reasoning_and_parts_pass_through() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"x": "é"}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "value": "b"}, "c"]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "why"},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    [conversation] = read({"messages": messages, "tools": '[{"name": "f"}]'})
    assert conversation.tools == [{"name": "f"}]
    user, assistant, tool = conversation.messages
    assert user["content"] == "abc" and tool == messages[2]
    assert assistant["content"] == "" and assistant["reasoning_content"] == "why"
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"x": "é"}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "assisstant", "content": "a"}, r"messages\[0\]: unknown role 'assisstant'; did you mean 'assistant'"),
        ({"role": "human", "content": "a"}, "did you mean 'user'"),
        ({"role": "narrator", "content": "a"}, "Known roles: system"),
        ({"role": None, "content": "a"}, "unknown role None"),
        ({"content": "a"}, "needs `role` and `content`"),
        ({"role": "user", "contnet": "a"}, "did you mean 'content'"),
        ({"role": "assistant", "content": "a", "trian": False}, "did you mean 'train'"),
        ({"role": "user", "content": None}, "`content` must be text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "content part must be"),
        ({"role": "assistant", "content": "a", "weight": -1}, "`weight` must be a finite number from 0"),
        ({"role": "assistant", "content": "a", "weight": "1"}, "`weight` must be"),
        ({"role": "assistant", "content": "a", "train": "no"}, "`train` must be true or false"),
        ({"role": "user", "content": "a", "train": True}, "only assistant messages can be trained"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "are not JSON"),
        ("hello", "expected {"),
    ],
)
def test_message_errors(message: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read({"messages": [message]})


@pytest.mark.parametrize("messages", [[], "hi", None, {"role": "user"}])
def test_messages_that_are_no_list(messages: Any) -> None:
    with pytest.raises(ValueError, match="rows:1: messages must be a list"):
        read({"messages": messages})
