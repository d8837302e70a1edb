"""Packing: nothing lost, nothing over capacity, deterministic, and close to the lower bound."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.data import pack


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 30))
def test_every_document_is_packed_once_and_rows_fit(lengths: list[int], capacity: int) -> None:
    bins = pack(lengths, capacity)
    assert sorted(chain.from_iterable(bins)) == list(range(len(lengths)))
    for members in bins:
        assert members
        assert sum(lengths[member] for member in members) <= capacity or len([m for m in members if lengths[m]]) == 1
    assert bins == pack(list(lengths), capacity)


@given(st.lists(st.integers(1, 12), max_size=40))
def test_no_two_rows_could_be_one(lengths: list[int]) -> None:
    """A property of best fit: a document opens a row only where it fits in none."""
    totals = [sum(lengths[member] for member in members) for members in pack(lengths, 16)]
    assert all(one + other > 16 for one, other in combinations(totals, 2))


def optimum(lengths: list[int], capacity: int) -> int:
    """The fewest rows that hold all documents, by trying every place of every document."""
    best = len(lengths)

    def place(at: int, free: list[int]) -> None:
        nonlocal best
        if len(free) >= best:
            return
        if at == len(lengths):
            best = len(free)
            return
        for row in range(len(free)):
            if free[row] >= lengths[at]:
                place(at + 1, [room - lengths[at] * (row == other) for other, room in enumerate(free)])
        place(at + 1, [*free, capacity - lengths[at]])

    place(0, [])
    return best


@given(st.lists(st.integers(1, 20), max_size=8))
def test_close_to_the_optimum(lengths: list[int]) -> None:
    """Best-fit decreasing needs at most 11/9 of the optimum and 6/9 of a row (Dosa 2007)."""
    best = optimum(lengths, 20)
    assert best <= len(pack(lengths, 20)) <= (11 * best + 6) / 9


def test_best_fit_decreasing_by_hand() -> None:
    # 7 opens a row and 5 another; 4 fits only beside 5; 3 fits only beside 7.
    assert pack([5, 6, 3, 4], 10) == [[0, 2], [1, 3]]  # 4 beside 6 (the tightest), then 3 beside 5
    assert pack([3, 5, 7, 4], 10) == [[0, 2], [1, 3]]
    assert pack([12, 2], 10) == [[0], [1]]


def test_rows_of_text_like_lengths_are_nearly_full() -> None:
    lengths = [20 + (i * 7919) % 400 for i in range(2000)]
    assert sum(lengths) / (1024 * len(pack(lengths, 1024))) > 0.99


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        pack([1], 0)
