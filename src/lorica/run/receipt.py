"""What a run was made of, so that it can be told from any other and made again."""

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import torch

from lorica.config import Resolved, result_settings, value_of
from lorica.data import StoredExamples
from lorica.files import hash_json
from lorica.models import Base
from lorica.run.rows import RunRows

_PACKAGES = ("lorica", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def receipt(resolved: Resolved, base: Base, rows: RunRows) -> dict[str, Any]:
    """Hashes of settings, base and data; versions; the machine. `format` is what the rows were read as; where they are
    `conversational`, prompts go through the chat template."""
    return {
        "format": rows.format,
        "conversational": rows.conversational,
        "settings_hash": hash_json(result_settings(resolved.config)),
        "base": {"name": base.name, "dtype": str(base.dtype).removeprefix("torch."), **base.hashes},
        "data": {"training": hash_examples(rows.training), "held_out": hash_examples(rows.held_out)},
        "rows": {"training": len(rows.training), "held_out": len(rows.held_out)},
        "seed": resolved.config.train.seed,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "machine": machine(base.device),
        "settings": settings_with_origins(resolved),
    }


def settings_with_origins(resolved: Resolved) -> dict[str, dict[str, Any]]:
    """Every setting by dotted key: its value and where it came from."""
    values = {key: value_of(resolved.config, key) for key in resolved.origins}
    return {key: {"value": values[key], "origin": origin} for key, origin in resolved.origins.items()}


def hash_examples(examples: StoredExamples) -> str:
    """SHA-256 over the token ids and weights of all rows, in order."""
    return hashlib.sha256(examples.fingerprints.tobytes()).hexdigest()


def machine(device: torch.device) -> dict[str, Any]:
    """The processor that computes, and how many threads it computes with."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "count": torch.cuda.device_count()}
    name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())
    return {"device": name, "architecture": platform.machine(), "threads": torch.get_num_threads()}
