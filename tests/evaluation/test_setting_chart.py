"""Held-out loss against a setting, as a picture; and intervals that share a scale."""

import itertools
import re

import pytest

from lorica.evaluation.charts import interval_mark
from lorica.evaluation.setting_chart import loss_chart


def trial(lr: float, r: int, loss: float | None, steps: int = 9) -> dict:
    return {"settings": {"train.lr": str(lr), "lora.r": str(r)}, "held_out_loss": loss, "steps": steps}


def test_names_of_lines_that_end_together_do_not_lie_on_each_other() -> None:
    rates = [1e-4, 3e-4, 1e-3, 3e-3]
    trials = [trial(lr, r, 4 + r / 100 + 10 * lr) for lr in rates for r in (4, 16)] + [trial(1, 4, None)]
    pattern = r'<text class="name end line(\d)" x="([\d.]+)" y="([\d.]+)">([^<]+)'
    names = re.findall(pattern, str(loss_chart(trials, "lora.r")))
    assert {text for *_, text in names} == {f"lr {lr}" for lr in rates}
    heights = sorted(float(y) for _, _, y, _ in names)
    assert all(below - above >= 12 for above, below in itertools.pairwise(heights))
    assert [text for *_, text in sorted(names, key=lambda name: float(name[2]))] == [f"lr {lr}" for lr in rates[::-1]]


def test_hollow_where_it_was_stopped_and_nothing_without_numbers() -> None:
    chart = str(loss_chart([trial(1e-4, 4, 2.0), trial(1e-3, 4, 1.0, steps=3)], "train.lr"))
    assert chart.count('circle class="finished"') == 1 == chart.count('circle class="stopped"')
    assert loss_chart([trial(1e-4, 4, 2.0), trial(1e-4, 8, 1.0)], "train.lr") == ""


@pytest.mark.parametrize(("reach", "at"), [(None, 110.9), (2.0, 72.7)])
def test_an_interval_is_scaled_to_itself_or_to_others(reach: float | None, at: float) -> None:
    assert f'x2="{at}"' in interval_mark(0.4, 0.2, 0.5, "worse", reach=reach)
