"""Models from their config alone, and what is wrong with configs that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bases import pack_by_bitsandbytes, write_base
from lorica.models import load
from lorica.planning.gpus import GPUS, find_gpu
from lorica.planning.model import read_model
from lorica.planning.shapes import SHAPES
from lorica.run.plan import plan

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 50,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def config_file(folder: Path, **fields: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in (LLAMA | fields).items() if v is not None}))
    return str(path)


def test_a_config_is_enough(tmp_path: Path) -> None:
    file = config_file(tmp_path, dtype="float16")
    for name in (file, str(tmp_path)):
        model = read_model(name)
        assert model.stored == torch.float16 and model.longest == 128
        assert sum(p.numel() for p in model.empty(torch.float32).parameters()) == 2 * 50 * 64 + 64 + 3 * (
            2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64
        )


def test_published_sizes() -> None:
    """Parameters as the papers count them."""
    published = {"llama-7b": 6.7, "llama-13b": 13.0, "llama-33b": 32.5, "llama-65b": 65.2, "llama-2-70b": 69.0}
    published |= {"llama-3-8b": 8.03, "llama-3-70b": 70.6, "llama-3.1-405b": 405.9, "qwen3-4b": 4.02, "qwen3-8b": 8.19}
    published |= {"qwen3-14b": 14.8, "qwen3-32b": 32.8, "llama-2-7b": 6.74, "llama-2-13b": 13.0}
    assert published.keys() == SHAPES.keys()
    for name, billions in published.items():
        module = read_model(name).empty(torch.bfloat16)
        assert sum(p.numel() for p in module.parameters()) / 1e9 == pytest.approx(billions, rel=0.01), name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "lama"}, "did you mean llama"),
        ({"hidden_size": None, "vocab_size": None}, "lacks hidden_size, vocab_size"),
        ({"num_attention_heads": 5}, "head|heads"),
        ({"hidden_size": "many"}, "cannot read this config"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised by awq"),
    ],
)
def test_bad_configs(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_model(config_file(tmp_path, **fields)).empty(torch.float32)


@pytest.mark.parametrize(("text", "told"), [("{", "JSON"), ("[1]", "holds a list"), ("", "JSON")])
def test_no_config_at_all(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_model(str(tmp_path))


def test_an_unknown_name_is_told_the_nearest_shapes() -> None:
    with pytest.raises(ValueError, match="llama-3-70b"):
        read_model("llama3-70b")


def test_rows_longer_than_the_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"129 tokens are longer than the 128 positions .* --length 128"):
        plan(model=config_file(tmp_path), length=129)


def test_an_impossible_budget_is_told_what_would_work(tmp_path: Path) -> None:
    small = {"model": config_file(tmp_path), "gpu": "H100", "length": 32, "system": {"tokens_per_microbatch": 64}}
    made = plan(**small, memory="1MB")
    assert not made.fits and made.peak_bytes > made.budget == 10**6
    assert plan(**small, memory=f"{made.peak_bytes}").fits


def test_gpus_are_found_however_they_are_spelt() -> None:
    for spelt in ("rtx4090", "RTX 4090", "NVIDIA GeForce RTX 4090"):
        assert find_gpu(spelt).name == "RTX 4090"
    assert {find_gpu(gpu.name).name for gpu in GPUS} == {gpu.name for gpu in GPUS}
    assert find_gpu("NVIDIA H100 80GB HBM3").name == "H100"
    assert find_gpu("NVIDIA A100-SXM4-80GB").name == "A100 80GB" and find_gpu("NVIDIA A10G").name == "A10"
    with pytest.raises(ValueError, match="A100 40GB, A100 80GB"):
        find_gpu("A100")
    for other in ("NVIDIA T400 4GB", "NVIDIA RTX A1000", "L400"):
        with pytest.raises(ValueError, match="none that figures are kept of"):
            find_gpu(other)
    with pytest.raises(ValueError, match="--memory works for any"):
        find_gpu("Voodoo 2")
    for gpu in GPUS:
        assert gpu.half >= gpu.single > 0 and gpu.source and 10_000 < gpu.memory < 200_000


@pytest.mark.parametrize("double", [False, True])
def test_what_bitsandbytes_packed_is_planned_with_as_it_is_loaded(tmp_path: Path, double: bool) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    folder = write_base(tmp_path / "base", **sizes)
    pack_by_bitsandbytes(folder, AutoModelForCausalLM.from_pretrained(folder), double=double)
    for name in (folder, folder / "config.json"):
        planned = read_model(str(name))
        assert planned.is_packed and planned.stored == torch.bfloat16
        assert tensors(planned.empty(torch.float32)) == tensors(load(folder, device="cpu", dtype="fp32").model)


def tensors(model: Any) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    held = [*model.named_parameters(), *model.named_buffers()]
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in held}
