"""Metadata values of a GGUF file: twelve scalar types, text, and arrays of one of them."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np


class Type(IntEnum):
    """The type numbers of the format."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


FORMATS = {
    Type.UINT8: "<B",
    Type.INT8: "<b",
    Type.UINT16: "<H",
    Type.INT16: "<h",
    Type.UINT32: "<I",
    Type.INT32: "<i",
    Type.FLOAT32: "<f",
    Type.BOOL: "<?",
    Type.UINT64: "<Q",
    Type.INT64: "<q",
    Type.FLOAT64: "<d",
}
INTEGERS = (Type.UINT8, Type.INT8, Type.UINT16, Type.INT16, Type.UINT32, Type.INT32, Type.UINT64, Type.INT64)
FLOATS = (Type.FLOAT32, Type.FLOAT64)


@dataclass(frozen=True, eq=False)
class Value:
    """A value with its type, which a copy keeps. Of an array, `element` is the type of its elements and `content` a
    numpy array, or a list of text. Bytes that are no UTF-8 are surrogates in text, so a copy keeps them too."""

    type: Type
    content: Any
    element: Type | None = None

    def encode(self) -> bytes:
        """The bytes after the type number, as the file holds them."""
        if self.type == Type.STRING:
            return encode_text(self.content)
        if self.type != Type.ARRAY:
            return struct.pack(FORMATS[self.type], self.content)
        assert self.element is not None
        start = struct.pack("<IQ", self.element, len(self.content))
        if self.element == Type.STRING:
            return start + b"".join(map(encode_text, self.content))
        return start + np.asarray(self.content, dtype=array_dtype(self.element)).tobytes()


def text(content: str) -> Value:
    return Value(Type.STRING, content)


def count(content: int) -> Value:
    """What llama.cpp counts and numbers with: 32 bits, unsigned."""
    return Value(Type.UINT32, content)


def number(content: float) -> Value:
    return Value(Type.FLOAT32, content)


def flag(content: bool) -> Value:
    return Value(Type.BOOL, content)


def array(element: Type, content: Any) -> Value:
    """An array of text from a list, or of numbers from a list or a numpy array."""
    return Value(Type.ARRAY, list(content) if element == Type.STRING else np.asarray(content), element)


def array_dtype(element: Type) -> np.dtype[Any]:
    return np.dtype(FORMATS[element])


def encode_text(content: str) -> bytes:
    encoded = content.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def shortest(value: float) -> float:
    """The shortest decimal that is the same fp32 number: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))
