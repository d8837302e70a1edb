"""Held-out rows: right number, no content on both sides, independent of the file's order."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.data import Example, split_held_out
from lorica.data.store import store


def example(content: int, source: str | None = None) -> Example:
    return Example(source or f"rows:{content}", [1, content], [0.0, 1.0])


@pytest.mark.parametrize(
    ("rows", "held_out", "expected"),
    [
        (10_000, "auto", 200),
        (1000, "auto", 32),
        (100, "auto", 20),
        (4, "auto", 0),
        (50, 0.1, 5),
        (50, 0.0, 0),
        (3, 0.01, 1),
    ],
)
def test_how_many(rows: int, held_out: float | str, expected: int) -> None:
    training, held = split_held_out(store(example(i) for i in range(rows)), held_out, seed=0)
    assert (len(training), len(held)) == (rows - expected, expected)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 15)), max_size=40), st.floats(0, 0.99), st.integers(0, 5))
def test_neither_content_nor_row_is_on_both_sides(pairs: list[tuple[int, int]], share: float, seed: int) -> None:
    examples = [example(content, f"rows:{row}") for content, row in pairs]
    training, held = split_held_out(store(examples), share, seed)
    assert sorted([*training, *held], key=str) == sorted(examples, key=str)
    assert bool(training) == bool(examples)
    for key in (Example.fingerprint, lambda e: e.source):
        assert not {key(e) for e in training} & {key(e) for e in held}


def test_independent_of_the_order_and_dependent_on_the_seed() -> None:
    examples = [example(i) for i in range(300)]
    shuffled = random.Random(0).sample(examples, 300)
    held = {e.source for e in split_held_out(store(examples), 0.1, seed=5)[1]}
    assert held == {e.source for e in split_held_out(store(shuffled), 0.1, seed=5)[1]}
    assert held != {e.source for e in split_held_out(store(examples), 0.1, seed=6)[1]}
    grown = {e.source for e in split_held_out(store([*examples, example(1000)]), 0.1, seed=5)[1]}
    assert len(held & grown) >= 29


def test_one_distinct_row_is_all_training() -> None:
    training, held = split_held_out(store(example(1, f"rows:{i}") for i in range(50)), 0.5, seed=0)
    assert (len(training), len(held)) == (50, 0)


@pytest.mark.parametrize("bad", [1.0, -0.1, "some", float("nan")])
def test_bad_share(bad: float | str) -> None:
    with pytest.raises(ValueError, match="held_out"):
        split_held_out(store([example(1)]), bad, seed=0)
