"""Rows that judge answers, in the shapes that they come in."""

from typing import Any

import pytest

from lorica.data.formats import Completion, Judged

Q, A, B = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
S = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [Q], "chosen": [A], "rejected": [B]},
        {"prompt": [Q], "chosen": A, "rejected": B},
        {"prompt": "q", "chosen": [A], "rejected": [B]},
        {"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]},
        {"prompt": [Q], "chosen": [Q, A], "rejected": [Q, B]},
        {"chosen": [Q, A], "rejected": [Q, B]},
        {"messages": [Q], "chosen": "a", "rejected": "b"},
        {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
         "rejected": {"from": "gpt", "value": "b"}},
    ],
)  # fmt: skip
def test_preferences_with_messages(read: Any, row: dict[str, Any]) -> None:
    one = read.one(row)
    assert (one.chosen.messages, one.rejected.messages) == ([Q, A], [Q, B])
    assert one.chosen.weights == one.rejected.weights == [0.0, 1.0]


def test_preferences_as_text(read: Any) -> None:
    one = read.one({"prompt": "q\n", "chosen": "a", "rejected": "b"})
    assert (one.chosen, one.rejected) == (Completion("x:1", "q\n", "a", 1.0), Completion("x:1", "q\n", "b", 1.0))
    shared = read.one({"chosen": "Human: hello there", "rejected": "Human: hello then"})
    assert (shared.chosen.prompt, shared.chosen.completion, shared.rejected.completion) == (
        "Human: hello ", "there", "then",
    )  # fmt: skip


def test_a_system_text_stands_before_both(read: Any) -> None:
    row = {"conversations": [{"from": "human", "value": "q"}], "system": "s",
           "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}  # fmt: skip
    assert read.one(row).chosen.messages == [S, Q, A]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
        ({"chosen": "a", "rejected": "b"}, "no common beginning"),
        ({"chosen": A, "rejected": B}, "a preference without a prompt"),
        ({"chosen": True, "rejected": False}, "a preference without a prompt"),
        ({"chosen": [Q, A], "rejected": "b"}, "a preference without a prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": 5}, "'rejected' must be text or messages; found int"),
    ],
)
def test_faults_of_preferences(read: Any, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"x:1.*{says}"):
        read(row, format="preference")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [Q], "completion": [A], "label": True},
        {"messages": [Q, A], "label": True},
        {"messages": [Q, A], "kto_tag": True},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": "true"},
        {"instruction": "q", "output": "a", "label": "True"},
    ],
)
def test_judged_answers(read: Any, row: dict[str, Any]) -> None:
    one = read.one(row)
    assert isinstance(one, Judged) and one.desirable
    assert (one.answer.messages, one.answer.weights) == ([Q, A], [0.0, 1.0])


def test_a_judged_text(read: Any) -> None:
    one = read.one({"prompt": "q\n", "completion": "a", "label": False})
    assert one == Judged("x:1", Completion("x:1", "q\n", "a", 1.0), False)
    for answer in ({"completion": "a"}, {"output": "a"}):
        with pytest.raises(ValueError, match="x:1: an answer without its question"):
            read(answer | {"label": True}, format="kto")
    with pytest.raises(ValueError, match=r"x:2: `label` must be true or false; found 3"):
        read(
            {"prompt": "q", "completion": "a", "label": True},
            {"prompt": "q", "completion": "a", "label": 3},
            format="kto",
        )
