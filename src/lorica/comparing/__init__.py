"""Ways to fine-tune beside each other: the same rows, each at its own best learning rate, several seeds."""

from lorica.comparing.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
