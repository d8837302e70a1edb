"""Bases and adapters in folders, and what independent readers compute from an export."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from bases import byte_tokenizer
from lorica.lora import Adapter, attach
from lorica.models import load


def write_model(folder: Path, model: Any, dtype: torch.dtype = torch.float32, shard: str = "50GB") -> Path:
    """`model` and a tokenizer as a directory of transformers': one of words, or of bytes if the vocabulary has room."""
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    words = model.config.get_text_config().vocab_size == tiny.VOCABULARY
    (tiny.word_tokenizer() if words else byte_tokenizer()).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, base: Path, size: float = 0.1, **fields: Any) -> tuple[Path, Adapter]:
    """A random adapter on the base in `base`, which is loaded in fp32."""
    adapter = tiny.randomise(attach(load(base, dtype="fp32"), **{"r": 3, "alpha": 8} | fields), size).eval()
    adapter.save(folder)
    return folder, adapter


def by_transformers(folder: Path, ids: Tensor) -> Tensor:
    """Logits of the directory as transformers itself loads it, in fp32; fails if it made up or left a tensor."""
    model, told = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    model.set_attn_implementation("eager")
    return tiny.logits(model.eval(), ids)


def by_peft(base: Path, adapter: Path, ids: Tensor) -> Tensor:
    """Logits of base and adapter as PEFT itself loads them, in fp32."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.set_attn_implementation("eager")
    return tiny.logits(PeftModel.from_pretrained(model, adapter).eval(), ids)
