"""A model without weights: its modules, buffers that follow from the config, and places for tensors to be put in."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from lorica.models.directory import UNREADABLE, auto_class
from lorica.models.locate import one_line
from lorica.models.stored import Stored


def empty_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model of `config`, in evaluation mode, its parameters on the meta device.

    Buffers that no file holds (rotary frequencies, embedding scales) are computed by the model's own initialisation,
    as transformers does it when it loads a model. Raises ValueError for a config that contradicts itself.
    """
    try:
        with torch.device("meta"):
            model = auto_class(config).from_config(config, dtype=dtype)
    except UNREADABLE as error:
        raise ValueError(f"no model can be made of this {config.model_type}'s config ({one_line(error)}).") from None
    for module in model.modules():
        for name in [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]:
            module.register_buffer(
                name,
                torch.empty_like(getattr(module, name), device="cpu"),
                persistent=name not in module._non_persistent_buffers_set,
            )
    for module in model.modules():  # a buffer may be its parent's to compute (Falcon H1's multipliers)
        model._init_weights(module)
    return model.eval().requires_grad_(False)


def model_of(stored: Mapping[str, Stored], config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The empty model of a directory with the tensors `stored`. Where these have two weights for what `config` ties,
    they are two, as for transformers, and the config says so then."""
    model = empty_model(config, dtype)
    if any(_differ(stored, *pair) for pair in model.all_tied_weights_keys.items()):
        config.get_text_config().tie_word_embeddings = config.tie_word_embeddings = False
        model = empty_model(config, dtype)
    return model


def _differ(stored: Mapping[str, Stored], one: str, other: str) -> bool:
    if one not in stored or other not in stored:
        return False
    first, second = stored[one].read(), stored[other].read()
    return not torch.equal(first, second.to(first.dtype))


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter or buffer called `name`."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
    else:
        setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))


def unfilled(model: nn.Module) -> list[str]:
    """Parameters and buffers that are still without values."""
    tensors: list[tuple[str, Any]] = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in tensors if tensor.is_meta]
