"""Content hashes: what tells one base, tokenizer or chat template from another, wherever the files lie.

A base is hashed by its tensors' names, types, shapes and bytes as the files hold them, so the same weights in other
shards have the same hash. `checksum` is for the weights in memory, on any device: it shows that frozen weights stayed
frozen.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lorica.files import hash_json
from lorica.gguf.split import GgufModel
from lorica.models.stored import StoredTensor, stored_tensors

Progress = Callable[[int, int], None]
Item = TypeVar("Item")


def hash_weight_files(files: Iterable[Path], progress: Progress | None = None) -> str:
    """SHA-256 over the tensors of safetensors `files`, sorted by name; hashing runs in threads, a tensor at a time.

    Raises ValueError as `stored_tensors`.
    """

    def digest(stored: StoredTensor) -> bytes:
        hasher = hashlib.sha256(f"{stored.name} {stored.dtype} {tuple(stored.shape)} ".encode())
        hasher.update(stored.read().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return hasher.digest()

    return _hash_all(digest, [stored for _, stored in sorted(stored_tensors(files).items())], progress)


def hash_gguf(file: GgufModel, progress: Progress | None = None) -> str:
    """SHA-256 over the tensors of a GGUF model: their names, types, shapes and packed bytes, sorted by name."""

    def digest(name: str) -> bytes:
        info = file.tensors[name]
        hasher = hashlib.sha256(f"{name} {info.type.name} {info.shape} ".encode())
        hasher.update(file.data(name).numpy().data)
        return hasher.digest()

    return _hash_all(digest, sorted(file.tensors), progress)


def _hash_all(digest: Callable[[Item], bytes], items: Sequence[Item], progress: Progress | None) -> str:
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for done, found in enumerate(pool.map(digest, items), 1):
            total.update(found)
            if progress is not None:
                progress(done, len(items))
    return total.hexdigest()


def hash_tokenizer(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer does: its vocabulary, rules and special tokens, without its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else sorted(tokenizer.get_vocab().items())
    if isinstance(rules, dict):  # settings of the last call, not of the tokenizer
        rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    return hash_json([rules, special])


def hash_template(tokenizer: Any) -> str | None:
    """SHA-256 of the chat template, None without one."""
    template = getattr(tokenizer, "chat_template", None)
    return hash_json(template) if template else None


def checksum(tensors: Iterable[Tensor]) -> int:
    """A 64-bit checksum of the bits of `tensors`, computed where they are; any changed bit changes it.

    Each 16-bit word is weighted by an odd number that depends on its place, and the sum wraps: integer arithmetic, so
    the result does not depend on device or order of summation.
    """
    total = 0
    for index, tensor in enumerate(tensors):
        words = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        words = words.view(torch.int16) if words.numel() % 2 == 0 else words
        total = (total * 31 + index + _weighted_sum(words)) % (1 << 64)
    return total


def _weighted_sum(words: Tensor, chunk: int = 1 << 20) -> int:
    total = 0
    for start in range(0, words.numel(), chunk):
        part = words[start : start + chunk].to(torch.int64)
        places = torch.arange(start, start + part.numel(), device=words.device)
        total += int((part * (2 * places + 1) * 0x9E3779B1).sum())
    return total
