"""Bases that are packed hold their packed bytes and no dense copy, tied pairs once, and train on lean layers."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models as tiny
from lorica.lora import attach
from lorica.models import load
from lorica.quant import PackedEmbedding, PackedLinear
from lorica.training.subject import subject_of


def bytes_held(model: Any) -> int:
    """Of all tensors, each once; those that lie in the mapped file are views of it."""
    return sum({t.data_ptr(): t.nbytes for t in [*model.parameters(), *model.buffers()]}.values())


def packed_modules(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, PackedLinear | PackedEmbedding)]


@pytest.mark.parametrize(("mixture", "dtype"), [("Q4_K_M", "fp32"), ("Q3_K_M", "bf16"), ("Q8_0", "bf16")])
def test_a_gguf_base_takes_its_file_s_size(shared: Path, mixture: str, dtype: str) -> None:
    path = shared / f"golden/gguf/tiny-llama-{mixture}.gguf"
    base = load(path, device="cpu", dtype=dtype)
    assert len(packed_modules(base.model)) == 7 * base.model.config.num_hidden_layers + 2
    assert bytes_held(base.model) <= 1.05 * path.stat().st_size
    adapter = attach(base, r=4, alpha=7)
    engine = subject_of(base.model, adapter).engine
    assert engine.description.startswith("2/2 layers lean")


def test_a_tied_pair_is_held_once(tmp_path: Path) -> None:
    model = tiny.llama(hidden_size=64, intermediate_size=96, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    tiny.word_tokenizer().save_pretrained(tmp_path)
    base = load(tmp_path, device="cpu", dtype="fp32", weights="q8_0")
    embedding, head = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    assert embedding.matrix is head.matrix
    ids = tiny.tokens()
    expected = torch.nn.functional.linear(base.model.model(ids).last_hidden_state, embedding.matrix.dense())
    torch.testing.assert_close(tiny.logits(base.model, ids), expected)
