"""Weights within a conversation: parts, kept reasoning, other roles. Read off the tokens' own texts."""

import json
from pathlib import Path
from typing import Any

import pytest
from makers import CHATML, byte_level, data_config

from lorica.data import read_examples
from lorica.data.preview.shown import pieces

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content | trim }}\n</think>\n\n{% endif %}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def weighed(folder: Path, row: dict[str, Any], source: str = CHATML, **options: Any) -> list[list[tuple[str, float]]]:
    """Of each example the texts of equal weight, one after another."""
    tokenizer = byte_level(specials=("<|im_start|>",))
    tokenizer.chat_template = source
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    told = []
    for example in read_examples(data_config(path, **options), tokenizer, 10**6).examples:
        runs: list[tuple[str, float]] = []
        for text, weight in zip(pieces(example.input_ids, tokenizer), example.weights, strict=True):
            if runs and runs[-1][1] == weight:
                runs[-1] = (runs[-1][0] + text, weight)
            else:
                runs.append((text, weight))
        told.append(runs)
    return told


def user(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def part(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


OPEN = "<|im_start|>user\nU\n<|im_end|>\n<|im_start|>assistant\n".replace("\n<|im_end|>", "<|im_end|>")


@pytest.mark.parametrize("source", [CHATML, THINKING])
def test_parts_have_weights_of_their_own(tmp_path: Path, source: str) -> None:
    content = [part("the\n", weight=0.25), part("cat\n"), part("sat", train=False), part("\nmat", weight=2)]
    [runs] = weighed(tmp_path, {"messages": [user("U"), assistant(content, weight=0.5)]}, source)
    assert runs == [(OPEN, 0.0), ("the\n", 0.25), ("cat\n", 0.5), ("sat", 0.0), ("\nmat", 2.0), ("<|im_end|>", 0.5)]


def test_a_part_of_a_turn_that_is_not_trained(tmp_path: Path) -> None:
    content = [part("the\n"), part("cat", weight=1)]
    [runs] = weighed(tmp_path, {"messages": [user("U"), assistant(content, train=False)]})
    assert runs == [(OPEN + "the\n", 0.0), ("cat", 1.0)]


def test_parts_that_the_template_strips(tmp_path: Path) -> None:
    content = [part(" \n "), part("the\n", weight=0.5), part("cat"), part("  ")]
    [runs] = weighed(tmp_path, {"messages": [user("  U\n"), assistant(content)]}, THINKING)
    assert runs == [(OPEN, 0.0), ("the\n", 0.5), ("cat<|im_end|>", 1.0)]


def test_equal_texts_are_told_apart_by_their_place(tmp_path: Path) -> None:
    messages = [user("cat"), assistant("cat"), user("cat"), assistant([part("cat\n"), part("cat", weight=3)])]
    [runs] = weighed(tmp_path, {"messages": messages})
    assert [run for run in runs if run[1]] == [
        ("cat<|im_end|>", 1.0),
        ("cat\n", 1.0),
        ("cat", 3.0),
        ("<|im_end|>", 1.0),
    ]


def test_reasoning_is_trained_kept_or_dropped(tmp_path: Path) -> None:
    row = {"messages": [user("U"), assistant("A", reasoning_content="why")]}
    thought = "<think>\nwhy\n</think>\n\n"
    assert weighed(tmp_path, row, THINKING) == [[(OPEN, 0.0), (thought + "A<|im_end|>", 1.0)]]
    assert weighed(tmp_path, row, THINKING, reasoning="keep") == [[(OPEN + thought, 0.0), ("A<|im_end|>", 1.0)]]
    assert weighed(tmp_path, row, THINKING, reasoning="drop") == [[(OPEN, 0.0), ("A<|im_end|>", 1.0)]]


def test_inline_reasoning_is_kept_as_context(tmp_path: Path) -> None:
    row = {"messages": [user("U"), assistant("<think>\nwhy\n</think>\nA")]}
    assert weighed(tmp_path, row, reasoning="keep") == [
        [(OPEN + "<think>\nwhy\n</think>\n", 0.0), ("A<|im_end|>", 1.0)]
    ]


def test_reasoning_before_a_turn_that_rewrites_history(shared: Path, tmp_path: Path) -> None:
    """Qwen 3 drops earlier reasoning, so each turn is an example, and each keeps its own reasoning as context."""
    source = (shared / "chat_templates" / "Qwen-Qwen3-0.6B.jinja").read_text(encoding="utf-8")
    messages = [user("U"), assistant("A", reasoning_content="why"), user("V"), assistant("B", reasoning_content="so")]
    examples = weighed(tmp_path, {"messages": messages}, source, reasoning="keep")
    assert [runs[1:] for runs in examples] == [[("A<|im_end|>", 1.0)], [("B<|im_end|>", 1.0)]]
    assert examples[0][0][0].endswith("<think>\nwhy\n</think>\n\n") and "why" not in examples[1][0][0]


def test_all_messages_are_trained_to_their_end(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "S"}, user("U"), assistant("A"), user("V")]
    [runs] = weighed(tmp_path, {"messages": messages}, train_on="all", role_weights={"system": 0.25, "user": 0.5})
    assert [run for run in runs if run[1]] == [
        ("S<|im_end|>", 0.25), ("U<|im_end|>", 0.5), ("A<|im_end|>", 1.0), ("V<|im_end|>", 0.5)
    ]  # fmt: skip


def test_a_user_who_asks_to_be_trained_and_nobody_else(tmp_path: Path) -> None:
    [runs] = weighed(tmp_path, {"messages": [user("U", train=True)]})
    assert runs == [("<|im_start|>user\n", 0.0), ("U<|im_end|>", 1.0)]


def test_only_the_last_turn(tmp_path: Path) -> None:
    messages = [user("U"), assistant("A"), user("V"), assistant("B", weight=0.5)]
    [runs] = weighed(tmp_path, {"messages": messages, "weight": 0.5}, train_on="last")
    assert [run for run in runs if run[1]] == [("B<|im_end|>", 0.25)]


def test_parts_of_a_text_that_the_template_changes_are_refused(tmp_path: Path) -> None:
    source = CHATML.replace("{{ m.content }}", "{{ m.content | upper }}")
    with pytest.raises(ValueError, match=r"rows.jsonl:1: parts with a weight.*cannot be found"):
        weighed(tmp_path, {"messages": [user("U"), assistant([part("a", weight=2), part("b")])]}, source)
