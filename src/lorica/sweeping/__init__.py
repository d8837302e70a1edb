"""Many short runs over one base, compared on held-out rows; the best of them finished."""

from lorica.sweeping.sweep import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
