"""Mutated GGUF models, loaded: a base or one ValueError, never anything else."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models as tiny
from gguf_files import convert, mutated
from lorica.gguf.metadata import Metadata
from lorica.gguf.read import read
from lorica.gguf.read_config import read_config
from lorica.gguf.values import Type, Value, array
from lorica.models import load


def fuzz(folder: Path, files: int, seed: int) -> tuple[int, int]:
    """How many mutated files were loaded and how many refused."""
    source = convert(tiny.llama(), folder / "whole.gguf", type="Q8_0")
    whole, header = source.read_bytes(), min(info.start for info in read(source).tensors.values())
    rng, path = random.Random(seed), folder / "mutated.gguf"
    loaded = refused = 0
    for _ in range(files):
        path.write_bytes(mutated(whole, header, rng))
        try:
            load(path, device="cpu", dtype="fp32")
            loaded += 1
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 1200, error
            refused += 1
    return loaded, refused


def test_mutated_models(tmp_path: Path) -> None:
    loaded, refused = fuzz(tmp_path, 60, seed=0)
    assert loaded > 3 and refused > 20


@pytest.mark.slow
def test_a_thousand_mutated_models(tmp_path: Path) -> None:
    assert min(fuzz(tmp_path, 1000, seed=1)) > 50


EXTREMES = [
    *(Value(Type.UINT32, number) for number in (0, 1, (1 << 31) - 1, (1 << 32) - 1)),
    *(Value(Type.INT64, number) for number in (-1, -(1 << 63))),
    *(Value(Type.FLOAT32, number) for number in (0.0, -1.0, 1e38, float("nan"), float("inf"))),
    Value(Type.STRING, ""),
    Value(Type.BOOL, True),
    array(Type.STRING, ["a"]),
    array(Type.INT32, [3]),
]
SCALED = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 16}
WINDOW = {"attention__sliding_window": 8, "final_logit_softcapping": 30.0}
MODELS = {
    "llama": (tiny.llama, SCALED | {"rope__freq_base": 500.0}),
    "gemma3": (tiny.gemma3, WINDOW | {"rope__freq_base_swa": 500.0}),
    "phi3": (tiny.phi3, {"rope__dimension_count": 6}),
    "granite": (tiny.granite, {"logit_scale": 2.0, "residual_scale": 0.3, "attention__scale": 0.2}),
    "olmo3": (tiny.olmo3, {"attention__sliding_window": 5}),
}


@pytest.mark.parametrize(("make", "values"), MODELS.values(), ids=MODELS)
def test_extreme_values_of_every_key(tmp_path: Path, make: Any, values: dict[str, Any]) -> None:
    """The config alone: what it lets pass is a model that transformers can build."""
    file = read(convert(make(), tmp_path / "a.gguf", **values))
    refused = 0
    for key in [key for key in file.metadata if not key.startswith("tokenizer.")]:
        for value in EXTREMES:
            metadata = Metadata("a.gguf", dict(file.metadata) | {key: value})
            try:
                config = read_config(metadata, file.tensors, lambda name: torch.ones(3))
                assert max(config.hidden_size, config.num_hidden_layers, getattr(config, "head_dim", 0)) < 1 << 31
            except ValueError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 60
