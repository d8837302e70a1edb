"""The learning rate at each step, against values worked out by hand."""

import pytest

from lorica.training.schedule import learning_rate_factor, total_steps, warmup_steps


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # 10 steps, 2 of warm-up: thirds up to the peak at the third step, then eighths of the way down.
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (
            "cosine",
            # (1 + cos(k pi / 8)) / 2, whose values at k and 8 - k add up to 1
            [1 / 3, 2 / 3, 1, 0.96193977, 0.85355339, 0.69134172, 0.5, 0.30865828, 0.14644661, 0.03806023],
        ),
    ],
)
def test_ten_steps(schedule: str, expected: list[float]) -> None:
    assert [learning_rate_factor(step, 10, schedule, 2) for step in range(10)] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (3, 3), (50, 0), (7, 6)])
def test_no_step_is_spent_on_a_rate_of_zero(schedule: str, total: int, warmup: int) -> None:
    factors = [learning_rate_factor(step, total, schedule, warmup) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


@pytest.mark.parametrize(
    ("total", "warmup", "steps"), [(100, 0.03, 3), (10, 0.03, 0), (10, 1.0, 1), (10, 4.0, 4), (1, 1.0, 1)]
)
def test_warmup_is_a_share_or_a_number(total: int, warmup: float, steps: int) -> None:
    assert warmup_steps(total, warmup) == steps


def test_a_warmup_beyond_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.warmup is 9 steps, and the run has 3"):
        warmup_steps(3, 9.0)


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "steps", "expected"),
    [
        (32, 16, 1.0, None, 2),
        (33, 16, 1.0, None, 3),
        (5, 16, 1.0, None, 1),
        (10, 5, 0.1, None, 1),
        (10, 1, 0.1 + 0.2, None, 3),
        (7, 2, 3.0, None, 11),
        (33, 16, 1.0, 5, 5),
    ],
)
def test_total_steps(rows: int, batch_size: int, epochs: float, steps: int | None, expected: int) -> None:
    assert total_steps(rows, batch_size, epochs, steps) == expected
