"""Put an adapter on a model by replacing modules of that model object; nothing else changes anywhere."""

from typing import Any

import torch
from torch import nn

from lorica.config import LoraConfig, lora_config
from lorica.lora.adapter import Adapter, replace_module
from lorica.lora.initialise import initialise
from lorica.lora.layer import LoraEmbedding, LoraLayer, LoraLinear
from lorica.lora.targets import Targets, find_targets, rank_and_alpha, scaling, tied_pair, unreached
from lorica.lora.trainable import TrainableCopy, TrainableRows


def attach(model: Any, config: LoraConfig | None = None, *, lanes: int = 1, seed: int = 0, **fields: Any) -> Adapter:
    """Freeze `model` and give it a trainable adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    `model` is a torch module or what `lorica.load` returned. The adapter is described by `config`, or by its fields as
    keywords in PEFT's names: `attach(model, r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"])`. With `lanes`
    above one, that many adapters train side by side, and inputs carry one row a lane. Adapter parameters are fp32.

    Raises ValueError for a field that does not exist, a target that matches nothing or cannot be adapted, half of a
    tied pair, or a model that already carries an adapter.
    """
    module = model if isinstance(model, nn.Module) else model.model
    if config is not None and fields:
        raise ValueError("attach takes a LoraConfig or its fields as keywords, not both.")
    config = config or lora_config(**fields)
    check_bare(module)
    targets = find_targets(module, config)
    _check_lanes(lanes, targets)
    adapter = Adapter(module, config, lanes, provenance=dict(getattr(model, "hashes", {})), base_name=name_of(model))
    adapter.notes = unreached(module, config)
    build(adapter, targets)
    try:
        for name, layer in adapter.layers.items():
            initialise(layer, config.init_lora_weights, seed, name)
            if config.use_dora:
                layer.magnitude = nn.Parameter(layer.weight_norm())
    except ValueError:
        adapter.detach()
        raise
    return adapter.train()


def check_bare(model: nn.Module) -> None:
    """Raises ValueError if `model` carries an adapter."""
    if any(isinstance(part, LoraLayer | TrainableCopy | TrainableRows) for part in model.modules()):
        raise ValueError("this model already carries an adapter; detach it before attaching another.")


def name_of(model: Any) -> str | None:
    """The path or hub id of a base or of a transformers model, if it has one."""
    return getattr(model, "name", None) or getattr(model, "name_or_path", None) or None


def _check_lanes(lanes: int, targets: Targets) -> None:
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}; an adapter has at least one.")
    if lanes > 1 and (targets.copies or targets.rows):
        raise ValueError("modules_to_save and trainable_token_indices train one lane only; use lanes=1 with them.")


def build(adapter: Adapter, targets: Targets) -> None:
    """Replace the target modules by adapter parts, zero-filled, and freeze everything else."""
    model, config = adapter.model, adapter.config
    model.requires_grad_(False)
    tied = tied_pair(model)
    for index, name in enumerate(targets.low_rank):
        layer = _layer(model.get_submodule(name), name, config, adapter.lanes)
        layer.token_keys, layer.dropout_salt = adapter.token_keys, index
        adapter.layers[name] = layer
    for name in targets.copies:
        adapter.copies[name] = TrainableCopy(model.get_submodule(name))
    for name, tokens in targets.rows.items():
        embedding = TrainableRows(model.get_submodule(name), tokens)
        adapter.rows[name] = embedding
        if tied is not None and tied[0] == name:
            adapter.rows[tied[1]] = TrainableRows(model.get_submodule(tied[1]), tokens, embedding.rows)
    for name, part in adapter.parts():
        replace_module(model, name, part)


def _layer(module: nn.Module, name: str, config: LoraConfig, lanes: int) -> LoraLayer:
    r, alpha = rank_and_alpha(name, config)
    kind = LoraEmbedding if isinstance(module, nn.Embedding) else LoraLinear
    layer = kind(module, r, alpha, scaling(r, alpha, config.use_rslora), lanes, config.dropout)
    if config.use_dora:
        layer.magnitude = nn.Parameter(torch.zeros(lanes, layer.lora_B.shape[1], device=layer.lora_B.device))
    return layer
