"""Several runs in one pass over one frozen base."""

from lorica.training.lanes.loop import LaneLoop, LaneRun

__all__ = ["LaneLoop", "LaneRun"]
