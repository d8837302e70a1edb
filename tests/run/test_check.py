"""What a check says of lengths and packing, against the slow way."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lorica.run.check import efficiency, lengths

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(SIZES)
def test_the_histogram_holds_every_length_once(sizes: list[int]) -> None:
    told = lengths(np.array(sizes, dtype=np.uint32))
    counts, edges = told["histogram"]["counts"], told["histogram"]["edges"]
    assert sum(counts) == len(sizes) and len(edges) == len(counts) + 1
    last = len(counts) - 1
    for index, (count, low, high) in enumerate(zip(counts, edges[:-1], edges[1:], strict=True)):
        assert count == sum(low <= size < high or (index == last and size == high) for size in sizes)
    assert (told["shortest"], told["longest"]) == (min(sizes), max(sizes))
    assert told["median"] in sizes and told["shortest"] <= told["median"] <= told["p95"] <= told["longest"]


def test_nothing_has_no_lengths() -> None:
    assert lengths(np.array([], dtype=np.uint32)) == {}


def test_efficiency_by_hand() -> None:
    steps = [np.array([6, 5, 4, 3]), np.array([9]), np.array([25])]
    # 10 tokens a microbatch: 6 + 4 and 5 + 3; then 9; then one that is too long and fills its own
    assert efficiency(steps, 10) == (18 + 9 + 25) / (20 + 10 + 25)


@given(st.lists(SIZES, min_size=1, max_size=4), st.integers(1, 400))
def test_efficiency_is_a_share(steps: list[list[int]], capacity: int) -> None:
    assert 0 < efficiency([np.array(step) for step in steps], capacity) <= 1
