"""Where a base comes from, in which precision it computes, and how it is told from another."""

from lorica.models.load import Base, load

__all__ = ["Base", "load"]
