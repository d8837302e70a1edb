"""Adapters as files after training: added, interpolated, shrunk and looked into, without loading a model."""

from lorica.adapters.merge import METHODS, merge_adapters
from lorica.adapters.resize import resize_adapter

__all__ = ["METHODS", "merge_adapters", "resize_adapter"]
