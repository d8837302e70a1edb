"""llama.cpp's own quantisers, where llama-cpp-python is installed (`pip install lorica[judge]`)."""

import ctypes
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorica.quant import Codec


def load() -> ctypes.CDLL:
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        pytest.skip("needs llama-cpp-python")
    library = ctypes.CDLL(str(Path(found.origin).parent / "lib" / "libggml-base.so"))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    return library


def packed(library: ctypes.CDLL, codec: Codec, weight: Tensor, importance: Tensor | None = None) -> Tensor:
    rows, columns = weight.shape
    weight, out = weight.float().contiguous(), torch.zeros(rows, codec.row_bytes(columns), dtype=torch.uint8)
    weights = None if importance is None else importance.data_ptr()
    written = library.ggml_quantize_chunk(codec.type_id, weight.data_ptr(), out.data_ptr(), 0, rows, columns, weights)
    assert written == out.numel()
    return out
