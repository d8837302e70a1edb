"""Which format rows are read as, and what is said where that cannot be told."""

from typing import Any

import pytest

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"messages": [USER, ASSISTANT]}, "messages"),
        ({"conversations": [USER, ASSISTANT]}, "messages"),
        ({"messages": '[{"role": "user", "content": "q"}]'}, "messages"),
        ({"conversations": TURNS}, "sharegpt"),
        ({"conversation": TURNS, "system": "s"}, "sharegpt"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"instruction": "q", "input": "i", "output": "a", "system": "s", "history": []}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt-completion"),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "prompt-completion"),
        ({"text": "t"}, "text"),
        ({"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": [1, 1]}, "tokens"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, USER]}, "preference"),
        ({"conversations": [TURNS[0]], "chosen": TURNS[1], "rejected": TURNS[0]}, "preference"),
        ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "q", "completion": "a", "label": True}, "kto"),
        ({"messages": [USER, ASSISTANT], "label": "false"}, "kto"),
        ({"instruction": "q", "output": "a", "kto_tag": False}, "kto"),
        ({"text": "t", "label": 3}, "text"),  # a class, as sets for classification have them
    ],
)
def test_formats_are_told_apart(read: Any, row: dict[str, Any], format: str) -> None:
    read(row)
    assert read.format == format
    read(row, format=format)


@pytest.mark.parametrize(
    ("row", "candidates"),
    [
        ({"text": "t", "prompt": "q", "completion": "a"}, "prompt-completion and text"),
        ({"messages": [USER, ASSISTANT], "instruction": "q", "output": "a"}, "messages and alpaca"),
        ({"messages": [USER, ASSISTANT], "input_ids": [1]}, "messages and tokens"),
    ],
)
def test_ambiguity_lists_the_candidates(read: Any, row: dict[str, Any], candidates: str) -> None:
    with pytest.raises(ValueError, match=rf"x:1: the keys .* fit more than one format: {candidates}\. Say which"):
        read(row)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"promt": "q", "completion": "a"}, r"cannot tell the format.*Did you mean 'prompt' where it says 'promt'\?"),
        ({"question": "q", "answer": "a"}, r"data.columns='\{prompt: question, completion: answer\}'"),
        ({"Our question?": "q", "our_reply": "a"}, r"'\{prompt: \"Our question\?\", completion: our_reply\}'"),
        ({"frage": "q", "antwort": "a", "n": 1}, r"'\{prompt: frage, completion: antwort\}'"),
        ({"chat": [USER, ASSISTANT]}, r"'\{messages: chat\}'"),
        ({"1+1?": "q", "2": "a"}, r"'\{prompt: \"1\+1\?\", completion: \"2\"\}'"),
        ({"body": "t"}, r"'\{text: body\}'"),
        ({"x": 1}, r"It has the keys x; expected one of messages \(.*data.columns='\{text: COLUMN\}'"),
        ({}, "the row holds nothing"),
        ({"messages": []}, r"messages must be a list of messages that is not empty, such as .*; found \[\]"),
        ({"conversations": [["human", "a"]]}, r'conversations must be a list of messages.*found \[\["human", "a"\]\]'),
        ({"text": "t", "question": "q"}, r"has a `text` and also 'question'.*data.format=text.*completion: text"),
        (
            {"text": 5},
            r"'text' must be text; found int: 5. Make it text: data.columns='{text: \"{{ text \| string }}\"}'",
        ),
    ],
)
def test_rows_of_no_format(read: Any, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"x:1: .*{says}"):
        read(row)


def test_rows_that_differ_from_the_first(read: Any) -> None:
    good = {"prompt": "q", "completion": "a"}
    with pytest.raises(ValueError, match=r"x:1 has the keys of prompt-completion and x:3 those of text"):
        read(good, good, {"text": "t"})
    with pytest.raises(ValueError, match=r"x:2: this row is not prompt-completion"):
        read(good, {"prompt": "q", "complet": "a"})
    with pytest.raises(ValueError, match=r"(?s)2 rows of x.jsonl cannot be read:\n- x:2.*\n- Rows of different"):
        read(good, {"prompt": "q"}, {"text": "t"})


def test_the_same_fault_in_many_rows_is_told_once(read: Any) -> None:
    bad = [{"prompt": "q", "completion": "a", "weight": -1}] * 500 + [{"prompt": 5, "completion": "a"}] * 2
    with pytest.raises(ValueError, match=r"(?s)502 rows.*\n- x:1: `weight`.*499 more alike\)\n- x:501.*\(and 1 more"):
        read(*bad, format="prompt-completion")


def test_a_field_without_use_is_noted_and_a_misspelt_one_refused(read: Any) -> None:
    read({"text": "t", "id": 7}, {"text": "u", "id": 8})
    assert read.names == ["field 'id' is not read"]
    with pytest.raises(ValueError, match=r"x:1: unknown key 'wieght'; did you mean 'weight'\?"):
        read({"text": "t", "wieght": 2})


def test_a_row_without_shape_says_nothing_of_the_next(read: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)^2 rows.*x:1: the row holds nothing.*x:2: messages must be a list"):
        read({"messages": None}, {"messages": []}, {"messages": [USER, ASSISTANT]})


def test_nulls_of_a_table_are_no_fields(read: Any) -> None:
    read({"text": "t", "messages": None, "weight": None})
    assert (read.format, read.names) == ("text", [])


def test_judged_rows_are_not_read_as_others(read: Any) -> None:
    with pytest.raises(ValueError, match="are those of preference data"):
        read({"prompt": "q", "completion": "a", "rejected": "b"}, format="prompt-completion")
    with pytest.raises(ValueError, match="are those of preference data"):
        read({"prompt": "q", "completion": "a", "label": False}, format="prompt-completion")
