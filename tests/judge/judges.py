"""llama.cpp, through the C functions that llama-cpp-python binds.

Not through its `Llama` class, which cannot turn the extra weight buffers off: on virtual machines that announce AMX
without having it they end the process.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from torch import Tensor

F32 = 0  # ggml's number; the default cache is F16, which adds 1e-3 to the logits


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: Any) -> None:
    """llama.cpp tells every tensor."""


llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


class Judge:
    """A model that llama.cpp loaded, if need be with an adapter, on one thread. Fails if it does not load."""

    def __init__(self, model: Path, lora: Path | None = None, vocabulary_only: bool = False) -> None:
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts, options.vocab_only = False, vocabulary_only
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), options)
        assert self.model, f"llama.cpp does not load {model}"
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.context = None if vocabulary_only else self._context()
        if lora is not None:
            adapter = llama_cpp.llama_adapter_lora_init(self.model, str(lora).encode())
            assert adapter, f"llama.cpp does not load {lora}"
            adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter), (ctypes.c_float * 1)(1.0)
            assert llama_cpp.llama_set_adapters_lora(self.context, adapters, 1, scales) == 0

    def _context(self) -> Any:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = 1
        options.type_k = options.type_v = F32
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds queries to fp16
        context = llama_cpp.llama_init_from_model(self.model, options)
        assert context
        return context

    def close(self) -> None:
        if self.context is not None:
            llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def read(self, ids: Sequence[int], start: int = 0) -> np.ndarray:
        """Logits (tokens, vocabulary) fp32 of tokens that follow the `start` that were read before."""
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, id in enumerate(ids):
            batch.token[place], batch.pos[place], batch.logits[place] = id, start + place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        assert llama_cpp.llama_decode(self.context, batch) == 0
        size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (len(ids) * size,)).copy()
        llama_cpp.llama_batch_free(batch)
        return found.reshape(len(ids), size)

    def tokenise(self, text: str) -> list[int]:
        """Without a beginning; special tokens are recognised."""
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), room, len(room), False, True)
        assert count >= 0
        return list(room[:count])


def logits(model: Path, ids: Sequence[int], lora: Path | None = None) -> Tensor:
    """(tokens, vocabulary) fp32."""
    judge = Judge(model, lora)
    found = torch.from_numpy(judge.read(ids))
    judge.close()
    return found


def greedy(judge: Judge, ids: Sequence[int], length: int, stops: Sequence[int]) -> list[int]:
    """The likeliest continuation, ended after a stop token."""
    judge.forget()
    scores, found = judge.read(ids), list[int]()
    while len(found) < length and (not found or found[-1] not in stops):
        if found:
            scores = judge.read(found[-1:], len(ids) + len(found) - 1)
        found.append(int(scores[-1].argmax()))
    return found
