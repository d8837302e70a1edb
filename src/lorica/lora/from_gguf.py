"""An adapter in llama.cpp's format, attached to a model."""

from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from lorica.config import LoraConfig
from lorica.gguf.adapter import Pair, read_adapter
from lorica.gguf.architectures import architecture_of_type
from lorica.lora.adapter import Adapter
from lorica.lora.attach import attach


def load_gguf_adapter(model: Any, path: str | Path) -> Adapter:
    """Attach the adapter in a GGUF file to `model`, a torch module or what `lorica.load` returned.

    The file does not say which weights it was trained on; only the architecture and the shapes can be checked. Raises
    ValueError for what `read_adapter` refuses, another architecture, and modules of other shapes than the pairs'.
    """
    module: nn.Module = model if isinstance(model, nn.Module) else model.model
    config: Any = module.config
    read = read_adapter(path, config.num_attention_heads, config.num_key_value_heads)
    own = architecture_of_type(config.model_type)
    if own is None or own.name != read.architecture:
        raise ValueError(
            f"the adapter in {path} is for {read.architecture} models, and this one is a {config.model_type}."
        )
    pairs = {parameter.removesuffix(".weight"): pair for parameter, pair in read.pairs.items()}
    strangers = sorted(pairs.keys() - dict(module.named_modules()).keys())
    if strangers:
        raise ValueError(f"the adapter in {path} adapts {strangers[0]}, which this model does not have.")
    adapter = attach(model, _config(pairs))
    adapter.notes.append(f"{path} does not say which base it was trained on; a GGUF adapter never does")
    for name, pair in pairs.items():
        layer = adapter.layers[name]
        if layer.lora_A.shape[1:] != pair.down.shape or layer.lora_B.shape[1:] != pair.up.shape:
            adapter.detach()
            wanted = f"{tuple(layer.lora_B.shape[1:])} and {tuple(layer.lora_A.shape[1:])}"
            raise ValueError(
                f"{path}: the pair for {name} is {tuple(pair.up.shape)} and {tuple(pair.down.shape)}, and this model "
                f"needs {wanted}; the adapter belongs to another model."
            )
        layer.lora_A.data[0].copy_(pair.down)
        layer.lora_B.data[0].copy_(pair.up)
    return adapter


def _config(pairs: dict[str, Pair]) -> LoraConfig:
    """The most common rank and alpha, and what differs as patterns."""
    rank, alpha = Counter((pair.rank, pair.scale * pair.rank) for pair in pairs.values()).most_common(1)[0][0]
    ranks = {name: pair.rank for name, pair in pairs.items() if pair.rank != rank}
    alphas = {name: pair.scale * pair.rank for name, pair in pairs.items() if pair.scale * pair.rank != alpha}
    return LoraConfig(r=rank, alpha=alpha, target_modules=sorted(pairs), rank_pattern=ranks, alpha_pattern=alphas)
