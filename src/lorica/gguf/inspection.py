"""What is in a GGUF file, from its header: a model, or an adapter."""

import math
from pathlib import Path
from typing import Any

from lorica.gguf.adapter import Pair, read_pairs
from lorica.gguf.metadata import Metadata
from lorica.gguf.split import holds_adapter, open_file
from lorica.gguf.tokenizer import stop_ids
from lorica.gguf.values import Type, Value

LONG = 200  # letters of text that are shown
SAID = {
    "general.name": "name",
    "general.license": "license",
    "general.base_model.0.name": "base",
    "general.file_type": "file_type",
}


def inspect_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Pair]]:
    """What the file says and holds, and of an adapter its pairs by tensor.

    Raises ValueError for a file that is damaged or no GGUF file, and as `read_pairs` for an adapter.
    """
    file = open_file(path)
    said = {name: shown(file.metadata[key]) for key, name in SAID.items() if key in file.metadata}
    adapter = holds_adapter(file)
    architecture = file.metadata.text("general.architecture", "unknown")
    kinds: dict[str, dict[str, int]] = {}
    for info in file.tensors.values():
        kind = kinds.setdefault(info.type.name, {"tensors": 0, "bytes": 0})
        kind["tensors"] += 1
        kind["bytes"] += info.size
    values = sum(math.prod(info.shape) for info in file.tensors.values())
    size = sum(info.size for info in file.tensors.values())
    found = {
        "kind": "gguf",
        "holds": "adapter" if adapter else "model",
        "architecture": architecture,
        **{name: value for name, value in said.items() if isinstance(value, str | int)},
        "parameters": values,
        "tensors": len(file.tensors),
        "types": kinds,
        "bits_per_weight": round(8 * size / values, 3) if values else None,
        "bytes": sum(opened.path.stat().st_size for opened in file.files),
    }
    found["metadata"] = {key: shown(value) for key, value in file.metadata.items()}
    return (found, read_pairs(file)) if adapter else (found | _model(file.metadata, architecture), {})


def _model(metadata: Metadata, architecture: str) -> dict[str, Any]:
    sizes = {"layers": "block_count", "hidden_size": "embedding_length", "longest": "context_length"}
    known = {name: metadata.integer(f"{architecture}.{key}", 0) or None for name, key in sizes.items()}
    return known | {
        "vocabulary": len(metadata.texts("tokenizer.ggml.tokens", [])) or None,
        "tokenizer": metadata.text("tokenizer.ggml.model", "none"),
        "pre_tokenizer": metadata.text("tokenizer.ggml.pre", "none"),
        "stops": _stops(metadata),
        "chat_template": "tokenizer.chat_template" in metadata,
    }


def _stops(metadata: Metadata) -> list[str]:
    """The tokens at which llama.cpp ends generation."""
    tokens = metadata.texts("tokenizer.ggml.tokens", [])
    return [tokens[id] for id in stop_ids(metadata) if 0 <= id < len(tokens)]


def shown(value: Value) -> Any:
    """A value for people and JSON: long text is cut, arrays are counted, other bytes than UTF-8 are replaced."""
    if value.type == Type.ARRAY:
        assert value.element is not None
        return f"{len(value.content):,} x {value.element.name.lower()}"
    if value.type == Type.STRING:
        clean = value.content.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return clean if len(clean) <= LONG else f"{clean[:LONG]}... ({len(clean):,} letters)"
    if isinstance(value.content, float) and not math.isfinite(value.content):
        return str(value.content)
    return value.content
