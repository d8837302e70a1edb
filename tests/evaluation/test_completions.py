"""Questions and references out of rows."""

from typing import Any

from stand_ins import row_of_text

from lorica.data.examples import Example
from lorica.evaluation.completions import questions, spread, without_stop


def test_rows_with_one_prompt_become_one_question_with_several_references(tokenizer: Any) -> None:
    rows = [
        row_of_text(tokenizer, "NAME? ", "BLUE SPICE", "a:1"),
        row_of_text(tokenizer, "AREA? ", "RIVER", "a:2"),
        row_of_text(tokenizer, "NAME? ", "THE SPICE", "a:3"),
        row_of_text(tokenizer, "NAME? ", "BLUE SPICE", "a:4"),
    ]
    first, second = questions(rows, tokenizer, [2], limit=10)
    assert (first.source, first.prompt, first.references) == ("a:1", "NAME? ", ["BLUE SPICE", "THE SPICE"])
    assert second.references == ["RIVER"] and second.prompt_ids == rows[1].input_ids[: rows[1].completion_start]


def test_reference_ends_at_the_stop_token_not_at_what_the_template_adds(tokenizer: Any) -> None:
    row = row_of_text(tokenizer, "Q", "A B")
    tail = Example(row.source, [*row.input_ids, 5, 6], [*row.weights, 0.0, 0.0], row.completion_start)
    assert questions([tail], tokenizer, [2], 1)[0].references == ["A B"]
    unstopped = Example(row.source, row.input_ids[:-1], row.weights[:-1], row.completion_start)
    assert questions([unstopped], tokenizer, [2], 1)[0].references == ["A B"]


def test_text_rows_ask_nothing(tokenizer: Any) -> None:
    assert questions([Example("t:1", [1, 5, 6], [0.0, 1.0, 1.0], None)], tokenizer, [2], 5) == []


def test_spread_takes_even_distances() -> None:
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 4) == [1, 2] and spread([], 4) == [] and spread([1, 2], 0) == []


def test_only_a_last_stop_is_dropped() -> None:
    assert without_stop([2, 5, 2], [2]) == [2, 5]
    assert without_stop([5], [2]) == [5] and without_stop([], [2]) == []
