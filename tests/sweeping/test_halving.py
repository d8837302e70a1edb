"""When trials are compared, and who goes on."""

import math

import pytest

from lorica.sweeping.halving import best, rungs, survivors


@pytest.mark.parametrize(
    ("trials", "steps", "share", "expected"),
    [
        (27, 270, 3, [30, 90, 270]),
        (9, 270, 3, [30, 90, 270]),
        (3, 270, 3, [90, 270]),
        (8, 64, 2, [8, 16, 32, 64]),
        (1, 100, 3, [100]),
        (9, 100, 1, [100]),
        (9, 4, 3, [1, 4]),
        (9, 1, 3, [1]),
    ],
)
def test_rungs(trials: int, steps: int, share: int, expected: list[int]) -> None:
    assert rungs(trials, steps, share) == expected


def test_one_in_three_goes_on_and_one_at_least() -> None:
    assert [survivors(count) for count in (27, 10, 4, 3, 2, 1)] == [9, 4, 2, 1, 1, 1]
    assert survivors(7, 1) == 7


def test_the_lowest_losses_are_the_best() -> None:
    losses = {"a": 2.0, "b": None, "c": 1.0, "d": math.nan, "e": math.inf, "f": 1.5}
    assert best(losses, 2) == ["c", "f"]
    assert best(losses, 9) == ["c", "f", "a"]
