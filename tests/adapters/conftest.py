"""Trained-looking adapters of one tiny base, saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models as tiny
from lorica.lora import attach

Make = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Make:
    """Saves an adapter of random values on `tiny.llama()` under a name; seeds and settings differ."""

    def make(name: str, seed: int, **fields: Any) -> Path:
        settings: dict[str, Any] = {"r": 4, "alpha": 10, "target_modules": ["q_proj", "up_proj"]}
        adapter = attach(tiny.llama(), **settings | fields)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        adapter.provenance = {"base": "hash of the base"}
        adapter.save(tmp_path / name)
        return tmp_path / name

    return make
