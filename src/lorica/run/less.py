"""A run that ran out of memory goes on with less of it at a time, to the same result."""

import torch

from lorica.planning.keeping import apply_checkpointing
from lorica.run.prepare import Prepared
from lorica.run.watch import Watcher
from lorica.training.subject import Subject


def take_less(prepared: Prepared, subject: Subject, said: str, watcher: Watcher) -> None:
    """Go over to the next smaller plan, and say so. Raises OutOfMemoryError if there is none."""
    plan = None if prepared.plan is None else prepared.plan.smaller()
    if plan is None:
        raise torch.OutOfMemoryError(said)
    prepared.plan = plan
    if prepared.capacity > 1:
        prepared.capacity = plan.settings["tokens_per_microbatch"]
    apply_checkpointing(subject, plan.settings["checkpointing"])
    if subject.device.type == "cuda":
        torch.cuda.empty_cache()
    chosen = ", ".join(f"system.{name}={value}" for name, value in plan.settings.items())
    watcher.notice(f"out of memory ({said}); from the last good step on with {chosen}, which gives the same result")
