"""Matrices that quantisers get wrong: each stresses another branch of a search."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

COLUMNS = 768


def golden_inputs() -> dict[str, Tensor]:
    """The inputs that `ggml_blocks.json` describes."""
    draw: Any = np.random.default_rng(20261123)
    gaussian = (draw.standard_normal((64, 512)) * 0.02).astype(np.float32)
    tailed = (draw.standard_t(4, (64, 512)) * 0.02).astype(np.float32)
    tailed[3], tailed[5, :300], tailed[8] = 0, 0, 0.01
    tailed[7] = np.abs(tailed[7])
    return {"gaussian": torch.from_numpy(gaussian), "heavy_tailed": torch.from_numpy(tailed)}


def hard_inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    normal, uniform = torch.randn(8, COLUMNS, generator=draw), torch.rand(8, COLUMNS, generator=draw)
    outlier = 1e-3 * normal
    outlier[:, 100] = 30
    runs = 10 ** (8 * torch.rand(8, COLUMNS // 16, 1, generator=draw) - 6)
    return {
        "zeros": torch.zeros(2, COLUMNS),
        "negative zeros": -torch.zeros(2, COLUMNS),
        "negative": -normal.abs(),
        "positive": normal.abs(),
        "one huge outlier": outlier,
        "constants": normal[:, :1].expand(-1, COLUMNS).contiguous(),
        "two values": torch.where(uniform < 0.5, -0.5, 0.25),
        "halves, which tie": (normal * 8).round() / 2,
        "sparse, zeros of both signs": normal * (uniform < 0.02),
        "bf16": normal.bfloat16().float(),
        "every run of another size": (normal.view(8, -1, 16) * runs).view(8, COLUMNS),
        "below fp16": normal * 10 ** (-10 - 27 * uniform[:, :1]),
        "one row": normal[:1] * 0.02,
    }


def importances(columns: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(4)
    normal, uniform = torch.randn(columns, generator=draw), torch.rand(columns, generator=draw)
    return {"spread": 10 ** (9 * uniform - 6), "with zeros": normal.square() * (uniform < 0.7), "ones": uniform * 0 + 1}
