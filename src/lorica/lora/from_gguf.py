"""An adapter in llama.cpp's format, said in PEFT's words."""

from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from lorica.gguf.adapter import read_adapter
from lorica.gguf.architectures import GLOBAL
from lorica.lora.peft_config import pair_keys


def read_as_peft(path: Path, model_config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `adapter_config.json` would hold of the adapter in a GGUF file, and its tensors by PEFT's names, fp32. The
    most common rank and alpha are common, and what differs is in patterns.

    The file does not say which weights it was trained on; only the architecture and the shapes can be checked. Raises
    ValueError as `read_adapter`.
    """
    pairs = {name.removesuffix(".weight"): pair for name, pair in read_adapter(path, model_config).items()}
    (rank, alpha), _ = Counter((pair.rank, pair.alpha) for pair in pairs.values()).most_common(1)[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: pair.rank for name, pair in pairs.items() if pair.rank != rank},
        "alpha_pattern": {name: pair.alpha for name, pair in pairs.items() if pair.alpha != alpha},
        "target_modules": sorted(pairs),
        "bias": "none",
    }
    tensors = {}
    for name, pair in pairs.items():
        down, up = pair_keys(name, name == GLOBAL["token_embd"])
        tensors[down], tensors[up] = pair.down, pair.up
    return config, tensors
