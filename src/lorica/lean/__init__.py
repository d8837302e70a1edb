"""Decoder layers at the least memory and time that the arithmetic allows, standing in for a model's own."""

from lorica.lean.body import LeanBody
from lorica.lean.find import find_body
from lorica.lean.layer import LeanLayer
from lorica.lean.own import HalfLeanLayer, PlainLayer
from lorica.lean.policy import LayerShape, Policy, saved_bytes
from lorica.lean.structure import NotLeanError

__all__ = [
    "HalfLeanLayer",
    "LayerShape",
    "LeanBody",
    "LeanLayer",
    "NotLeanError",
    "PlainLayer",
    "Policy",
    "find_body",
    "saved_bytes",
]
