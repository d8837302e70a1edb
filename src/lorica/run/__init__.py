"""A run from configuration to report: the rooms in the order a user's data flows through them."""

from lorica.run.execute import RunResult
from lorica.run.measure import evaluate
from lorica.run.start import train
from lorica.run.watch import Watcher

__all__ = ["RunResult", "Watcher", "evaluate", "train"]
