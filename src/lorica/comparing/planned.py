"""A method that does not fit the machine's memory: what the planner says of it, in place of runs."""

from __future__ import annotations

from typing import Any

import yaml

from lorica.comparing.methods import Planned
from lorica.planning.plan import Plan, make_plan
from lorica.planning.rehearsal import CannotRehearseError
from lorica.run.plan import Question, ask
from lorica.run.watch import Watcher


def plan_that_does_not_fit(planned: Planned, watcher: Watcher) -> Plan | None:
    """The smallest plan of a run that takes more than `system.memory`, or than is free; None where one fits, or where
    the model cannot be rehearsed and only a run can tell."""
    values = yaml.safe_load(planned.config)
    try:
        made = make_plan(*ask(None, [], Question(), watcher, "comparison", values))
    except CannotRehearseError:
        return None
    return None if made.fits else made


def planned_row(planned: Planned, made: Plan) -> dict[str, Any]:
    """As the row of a method that was run; what only a run can tell is None or empty."""
    values = yaml.safe_load(planned.config)
    bytes_each = 2 if values["model"]["dtype"] == "bf16" and values["method"] == "full" else 4
    return {
        "name": planned.method,
        "planned": True,
        "budget_bytes": made.budget,
        "settings": {"train.lr": planned.lr},
        "lr_curve": {},
        "loss": None,
        "loss_by_seed": {},
        "base_loss": None,
        "metrics": {},
        "forgetting": {},
        "share_of_full": None,
        "trainable_parameters": made.trained,
        "seconds": made.seconds,
        "peak_memory_bytes": made.peak_bytes,
        "bytes_stored": made.trained * bytes_each,
        "runs": [],
        "curve": [],
    }
