"""A run from configuration to report: the rooms in the order a user's data flows through them."""

from lorica.run.evaluate import evaluate
from lorica.run.train import RunResult, train
from lorica.run.watch import Watcher

__all__ = ["RunResult", "Watcher", "evaluate", "train"]
