"""The decoder of a causal language model: what turns tokens into the hidden states that its output layer reads."""

from typing import Any

from torch import nn


def decoder_of(model: Any) -> nn.Module | None:
    """The innermost part of `model` that holds both the token embedding and a list of layers; None where only the whole
    model does. Of a model that also sees (Gemma 3) or that names no body (Llama 4) it is the language model inside."""
    embedding = model.get_input_embeddings()
    found = model
    while len(inner := [child for child in found.children() if _holds(child, embedding)]) == 1:
        found = inner[0]
    return None if found is model else found


def decoder_layers(decoder: nn.Module) -> nn.ModuleList | None:
    """Its list of layers, as long as its config says; None where there is none, or several that may be it."""
    config: Any = decoder.config
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    for parts in (decoder.children(), decoder.modules()):
        lists = [part for part in parts if isinstance(part, nn.ModuleList) and len(part) == count]
        if lists:
            return lists[0] if len(lists) == 1 else None
    return None


def _holds(part: nn.Module, embedding: nn.Module) -> bool:
    inside = list(part.modules())
    return any(module is embedding for module in inside) and any(isinstance(module, nn.ModuleList) for module in inside)
