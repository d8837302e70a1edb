"""`sweep.html`: the comparison as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lorica.evaluation.charts import interval_mark
from lorica.evaluation.quantities import duration
from lorica.evaluation.setting_chart import loss_chart, numeric_keys
from lorica.pages import fill


def render_page(result: Mapping[str, Any]) -> str:
    """The page of a finished sweep, every text escaped."""
    rows = result["rows"]
    return fill(
        "lorica.sweeping",
        result=result,
        keys=list(rows[0]["settings"]),
        charts=[(key, loss_chart(rows, key)) for key in numeric_keys(rows)],
        interval_mark=partial(interval_mark, reach=_reach(rows)),
        duration=duration,
        state=state,
    )


def _reach(rows: Sequence[Mapping[str, Any]]) -> float:
    """The largest number of all intervals, so that their marks can be compared."""
    found = [row["difference"] for row in rows if row["difference"] and row["difference"]["low"] is not None]
    return max((abs(one[key]) for one in found for key in ("difference", "low", "high")), default=0.0)


def state(row: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """What became of a trial, in a word or two."""
    if row["failed"] is not None:
        return "diverged"
    if row["name"] == best["name"]:
        return "the best"
    return "finished" if row["steps"] == best["steps"] else f"stopped at step {row['steps']}"
