"""Rows as the model sees them, token by token: which are trained, with which weight, and where a turn stops."""

from lorica.data.preview.shown import Preview, ShownExample, ShownToken, show

__all__ = ["Preview", "ShownExample", "ShownToken", "show"]
