"""The order of rows: epochs are permutations, steps are windows of their endless concatenation."""

import pytest

from lorica.data import step_rows


@pytest.mark.parametrize(("rows", "batch_size"), [(10, 3), (5, 16), (1, 4), (7, 7), (12, 4)])
def test_steps_concatenate_to_permutations(rows: int, batch_size: int) -> None:
    steps = 4 * rows
    order = [row for step in range(steps) for row in step_rows(rows, batch_size, step, seed=3)]
    epochs = [order[at : at + rows] for at in range(0, steps * batch_size, rows)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    assert all(len(step_rows(rows, batch_size, step, seed=3)) == batch_size for step in range(3))


def test_stateless_and_seeded() -> None:
    later = step_rows(100, 8, 50, seed=1)
    for step in (3, 70, 50):
        step_rows(100, 8, step, seed=2)
    assert step_rows(100, 8, 50, seed=1) == later
    assert step_rows(100, 8, 50, seed=2) != later
    first, second = (step_rows(50, 50, epoch, seed=0) for epoch in (0, 1))
    assert first != second and first != sorted(first)
