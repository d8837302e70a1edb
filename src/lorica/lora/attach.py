"""Put an adapter on a model by replacing modules of that model object; nothing else changes anywhere."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lorica.config import LoraConfig, check_combination, lora_config
from lorica.lora.activations import Tokens, input_directions
from lorica.lora.adapter import Adapter
from lorica.lora.initialise import initialise
from lorica.lora.lane import Lane, check_lanes
from lorica.lora.layer import LoraEmbedding, LoraLayer, LoraLinear
from lorica.lora.packing_error import Source, packing_errors
from lorica.lora.part import AdapterPart
from lorica.lora.targets import Targets, find_targets, strength_of, tied_pair, unreached
from lorica.lora.trainable import TrainableCopy, TrainableRows
from lorica.lora.weights import is_embedding
from lorica.models.stored import StoredTensor


def attach(
    model: Any,
    config: LoraConfig | None = None,
    *,
    lanes: int | Sequence[Lane] = 1,
    seed: int = 0,
    sample: Iterable[Tokens] | None = None,
    **fields: Any,
) -> Adapter:
    """Freeze `model` and give it a trainable adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    `model` is a torch module or what `lorica.load` returned. The adapter is described by `config`, or by its fields as
    keywords in PEFT's names: `attach(model, r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"])`. With `lanes`
    above one, that many adapters train side by side, and inputs carry one row a lane; they are described one by one
    where `lanes` is a list of `Lane`, else they differ in their seed. Adapter parameters are fp32. `sample` is what
    EVA's start (init_lora_weights="eva") listens to.

    Raises ValueError for a field that does not exist, a target that matches nothing or cannot be adapted, half of a
    tied pair, or a model that already carries an adapter.
    """
    module = model if isinstance(model, nn.Module) else model.model
    described = _described(config, lanes, seed, fields)
    check_lanes(described)
    config = described[0].config
    settings = {f"lora.{key}": value for key, value in config.model_dump().items()}
    check_combination(settings, *(["lanes"] if len(described) > 1 else []))
    check_bare(module)
    targets = find_targets(module, config)
    provenance = dict(getattr(model, "hashes", {}))
    configs = [lane.config for lane in described]
    adapter = Adapter(module, config, configs, provenance=provenance, base_name=name_of(model))
    adapter.notes = unreached(module, config)
    build(adapter, targets)
    try:
        source = _source(adapter, getattr(model, "stored", None), sample)
        if config.init_lora_weights == "loftq":
            adapter.provenance["start"] = "loftq"
        for name, layer in adapter.layers.items():
            initialise(layer, config.init_lora_weights, [lane.seed for lane in described], name, source)
            if config.use_dora:
                layer.magnitude = nn.Parameter(layer.weight_norm())
    except ValueError:
        adapter.detach()
        raise
    return adapter.train()


def _described(config: LoraConfig | None, lanes: int | Sequence[Lane], seed: int, fields: dict[str, Any]) -> list[Lane]:
    if (config is not None) + bool(fields) + (not isinstance(lanes, int)) > 1:
        raise ValueError("attach takes a LoraConfig, its fields as keywords, or a list of lanes, not both.")
    if not isinstance(lanes, int):
        return list(lanes)
    config = config or lora_config(**fields)
    return [Lane(config, seed + number) for number in range(lanes)]


def _source(
    adapter: Adapter, stored: Mapping[str, StoredTensor] | None, sample: Iterable[Tokens] | None
) -> Source | None:
    """What the start takes from elsewhere than the layer itself."""
    if adapter.config.init_lora_weights == "eva":
        return input_directions(adapter, sample)
    return packing_errors(adapter, stored) if adapter.config.init_lora_weights == "loftq" else None


def check_bare(model: nn.Module) -> None:
    """Raises ValueError if `model` carries an adapter."""
    if any(isinstance(part, AdapterPart) for part in model.modules()):
        raise ValueError("this model already carries an adapter; detach it before attaching another.")


def name_of(model: Any) -> str | None:
    """The path or hub id of a base or of a transformers model, if it has one."""
    return getattr(model, "name", None) or getattr(model, "name_or_path", None) or None


def build(adapter: Adapter, targets: Targets) -> None:
    """Replace the target modules by adapter parts, zero-filled, and freeze everything else."""
    model = adapter.model
    model.requires_grad_(False)
    tied = tied_pair(model)
    for index, name in enumerate(targets.low_rank):
        layer = _layer(model.get_submodule(name), name, adapter.configs)
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
        model.set_submodule(name, part)


def _layer(module: nn.Module, name: str, configs: Sequence[LoraConfig]) -> LoraLayer:
    kind = LoraEmbedding if is_embedding(module) else LoraLinear
    layer = kind(module, [strength_of(name, config) for config in configs], configs[0].dropout)
    if configs[0].use_dora:
        layer.magnitude = nn.Parameter(torch.zeros(len(configs), layer.lora_B.shape[1], device=layer.lora_B.device))
    return layer
