"""Mixtures, against a loop over rows."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.data import Example
from lorica.data.mixture import mix
from lorica.data.store import store


def rows(source: str, count: int, parts: int = 1) -> list[Example]:
    ids = ord(source)
    return [Example(f"{source}:{n}", [ids, n, part], [0.0, 1.0, 1.0]) for n in range(count) for part in range(parts)]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=4), st.integers(1, 3))
def test_each_row_as_often_as_its_source_says(sources: list[tuple[int, int]], parts: int) -> None:
    weights = [tenths / 10 + 0.1 for _, tenths in sources]
    listed = [one for number, (count, _) in enumerate(sources) for one in rows("abcd"[number], count, parts)]
    if max(weights) < 1:
        return
    counts = Counter(one.source for one in mix(store(listed), [count for count, _ in sources], weights))
    for number, (count, _) in enumerate(sources):
        times = [counts["abcd"[number] + f":{n}"] / parts for n in range(count)]
        assert set(times) <= {int(weights[number]), int(weights[number]) + 1}  # all parts of a row alike


def test_a_half_is_nearly_a_half_and_always_the_same() -> None:
    listed = rows("a", 4000)
    kept = mix(store(listed), [4000], [0.5])
    assert abs(len(kept) - 2000) < 150
    reverse = mix(store(listed[::-1]), [4000], [0.5])
    assert {one.source for one in kept} == {one.source for one in reverse}
    more = {one.source for one in mix(store(listed), [4000], [0.6])}
    assert {one.source for one in kept} < more


def test_whole_weights_are_exact_and_one_changes_nothing() -> None:
    kept = store(rows("a", 3) + rows("b", 2))
    assert mix(kept, [3, 2], [1.0, 1.0]) is kept
    assert [one.source for one in mix(kept, [3, 2], [1.0, 2.0])] == ["a:0", "a:1", "a:2", "b:0", "b:0", "b:1", "b:1"]


def test_a_mixture_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"No row is left.*1e-12"):
        mix(store(rows("a", 3)), [3], [1e-12])
