"""An example as bytes: what the cache keeps and what a store of examples on disk is made of.

Token ids are uint32 and loss weights runs of equal float64 values, so a token costs four bytes and nothing is rounded.
A header holds what is asked of many rows at once (lengths, content hashes), which spares decoding them.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import numpy as np

from lorica.data.examples import Example

_HEADER = struct.Struct("<IIIiQ16s")


class Header(NamedTuple):
    """What can be told of an example without decoding it.

    `prompt` is a 64-bit hash of the ids before `completion_start`; both are None for plain text. `fingerprint` is
    that of the `Example`.
    """

    tokens: int
    supervised: int
    completion_start: int | None
    prompt: int | None
    fingerprint: bytes


def encode(example: Example) -> bytes:
    """The example without its source; equal examples give equal bytes."""
    ids = np.array(example.input_ids, dtype="<u4")
    weights = np.array(example.weights, dtype="<f8")
    starts = np.flatnonzero(np.diff(weights, prepend=np.nan))  # where a run of equal weights begins
    runs = np.diff(starts, append=len(weights)).astype("<u4")
    start = example.completion_start
    digest = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16)
    digest.update(weights.tobytes())
    prompt = b"" if start is None else hashlib.blake2b(ids[:start].tobytes(), digest_size=8).digest()
    head = _HEADER.pack(
        len(ids),
        np.count_nonzero(weights),
        len(runs),
        -1 if start is None else start,
        int.from_bytes(prompt, "little"),
        digest.digest(),
    )
    return b"".join((head, ids.tobytes(), runs.tobytes(), weights[starts].tobytes()))


def header(encoded: bytes) -> Header:
    """The header of an encoded example."""
    tokens, supervised, _, start, prompt, fingerprint = _HEADER.unpack_from(encoded)
    return Header(tokens, supervised, None if start < 0 else start, None if start < 0 else prompt, fingerprint)


def token_ids(encoded: bytes) -> np.ndarray:
    """The ids (tokens,) uint32 of an encoded example, without copying them."""
    return np.frombuffer(encoded, "<u4", _HEADER.unpack_from(encoded)[0], _HEADER.size)


def weight_runs(encoded: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The lengths (runs,) uint32 and values (runs,) float64 of the runs of equal weights."""
    tokens, _, runs, *_ = _HEADER.unpack_from(encoded)
    at = _HEADER.size + 4 * tokens
    return np.frombuffer(encoded, "<u4", runs, at), np.frombuffer(encoded, "<f8", runs, at + 4 * runs)


def decode(encoded: bytes, source: str) -> Example:
    """The example that was encoded, with the place it came from."""
    weights = np.repeat(*reversed(weight_runs(encoded))).tolist()
    return Example(source, token_ids(encoded).tolist(), weights, header(encoded).completion_start)
