"""llama.cpp, through llama-cpp-python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import torch
from torch import Tensor

F32 = 0  # ggml's number; the default cache is F16, which adds 1e-3 to the logits


def opened(model: Path, lora: Path | None = None, **options: Any) -> Any:
    sizes = {"n_ctx": 256, "n_batch": 256, "n_ubatch": 256, "n_threads": 1, "n_threads_batch": 1}
    cache = {"type_k": F32, "type_v": F32, "logits_all": True, "verbose": False}
    adapter = {"lora_path": str(lora)} if lora is not None else {}
    return llama_cpp.Llama(str(model), **sizes | cache | adapter | options)


def logits(model: Path, ids: Sequence[int], lora: Path | None = None) -> Tensor:
    """(tokens, vocabulary) fp32."""
    judge = opened(model, lora)
    judge.eval(list(ids))
    return torch.from_numpy(judge.scores[: len(ids)].copy())


def greedy(judge: Any, ids: Sequence[int], length: int, stops: Sequence[int]) -> list[int]:
    """The likeliest continuation, ended after a stop token."""
    judge.reset()
    judge.eval(list(ids))
    found: list[int] = []
    while len(found) < length and (not found or found[-1] not in stops):
        found.append(int(judge.scores[judge.n_tokens - 1].argmax()))
        judge.eval(found[-1:])
    return found
