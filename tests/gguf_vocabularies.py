"""Real vocabularies as metadata, written as llama.cpp's converter writes them, straight from the models' own files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorica.gguf.metadata import Metadata
from lorica.gguf.values import Type, Value, array, count, flag, text

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def byte_level(vocab: Path, merges: Path, pre: str, special: dict[str, int], **ids: int) -> Metadata:
    """Of vocab.json and merges.txt; `special` are control tokens beyond them."""
    tokens = {id: token for token, id in json.loads(vocab.read_text(encoding="utf-8")).items()}
    kinds = {id: CONTROL if token == "<|endoftext|>" else NORMAL for id, token in tokens.items()}
    tokens |= {id: token for token, id in special.items()}
    kinds |= dict.fromkeys(special.values(), CONTROL)
    size = max(tokens) + 1
    lines = merges.read_text(encoding="utf-8").removeprefix("#version: 0.2\n").rstrip("\n").split("\n")
    values = {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(pre),
        "tokenizer.ggml.tokens": array(Type.STRING, [tokens.get(id, f"[PAD{id}]") for id in range(size)]),
        "tokenizer.ggml.token_type": array(Type.INT32, [kinds.get(id, 5) for id in range(size)]),
        "tokenizer.ggml.merges": array(Type.STRING, lines),
    }
    return Metadata(vocab, values | ids_of(ids))


def sentencepiece(model: Path, **ids: int) -> Metadata:
    """Of a SentencePiece model: pieces with their scores and types."""
    pieces = list(_pieces(model.read_bytes()))
    values = {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.tokens": array(Type.STRING, [piece for piece, _, _ in pieces]),
        "tokenizer.ggml.scores": array(Type.FLOAT32, [score for _, score, _ in pieces]),
        "tokenizer.ggml.token_type": array(Type.INT32, [kind for _, _, kind in pieces]),
    }
    return Metadata(model, values | ids_of(ids))


def ids_of(ids: dict[str, int]) -> dict[str, Value]:
    flags = {f"tokenizer.ggml.{key}_token": flag(bool(ids[key])) for key in ids if key.startswith("add_")}
    return flags | {f"tokenizer.ggml.{key}_token_id": count(ids[key]) for key in ids if not key.startswith("add_")}


def _pieces(data: bytes) -> Iterator[tuple[str, float, int]]:
    """The pieces of a SentencePiece model: field 1 of the message, each with text 1, score 2, type 3."""
    for number, value in _fields(data):
        if number == 1:
            fields = dict(_fields(value))
            score = struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0
            yield fields[1].decode("utf-8"), score, fields.get(3, NORMAL)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Protobuf's wire format."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            length = {5: 4, 1: 8}.get(key & 7) or varint()
            yield key >> 3, data[at : at + length]
            at += length
