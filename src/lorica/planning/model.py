"""The model that a plan is of, from its config alone: no weights are read, and none need to be there."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel

from lorica.files import read_json
from lorica.gguf.read_config import read_config as read_gguf_config
from lorica.gguf.split import GgufModel, open_model
from lorica.models import directory
from lorica.models.gguf_base import most_stored
from lorica.models.locate import gguf_file, model_folder, one_line, weight_files
from lorica.models.skeleton import empty_model
from lorica.models.stored import stored_dtype
from lorica.planning.packed import pack_as, pack_like, twin_of
from lorica.planning.shapes import SHAPES

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class PlannedModel:
    """`stored` is the type that its files hold, as far as that is known; `file` the GGUF file that it is in, if it is.
    `packing` is how bitsandbytes packed its files, in the words of `model.weights`. A `loaded` model is planned with as
    it is."""

    name: str
    config: PretrainedConfig
    stored: torch.dtype
    file: GgufModel | None = None
    loaded: PreTrainedModel | None = None
    packing: str = "as-is"

    @property
    def is_packed(self) -> bool:
        return self.file is not None or self.packing != "as-is"

    @property
    def text(self) -> Any:
        return self.config.get_text_config()

    @property
    def longest(self) -> int | None:
        return getattr(self.text, "max_position_embeddings", None)

    def empty(self, dtype: torch.dtype, weights: str = "as-is") -> PreTrainedModel:
        """The model on the meta device, with a config of its own and its matrices packed as `model.weights` says.

        Raises ValueError for a config that lacks fields or contradicts itself, and for weights that it cannot have."""
        if self.loaded is not None:
            memo = {id(x): twin_of(x) for x in (*self.loaded.parameters(), *self.loaded.buffers())}
            return deepcopy(self.loaded, memo)
        if self.file is not None and weights != "as-is":
            raise ValueError(
                f"model.weights is {weights}, but {self.name} is a GGUF file, which is used as it is packed."
            )
        model, weights = self._dense(dtype), self.packing if weights == "as-is" else weights
        if self.file is not None:
            pack_like(model, self.file, dtype)
        elif weights != "as-is":
            pack_as(model, weights, dtype)
        return model

    def _dense(self, dtype: torch.dtype) -> PreTrainedModel:
        config = deepcopy(self.config)
        config._attn_implementation = None
        try:
            return empty_model(config, dtype)
        except ValueError as error:
            raise ValueError(
                f"{self.name}: {error} Compare its sizes with those of a known shape, such as `lorica plan --model "
                f"{nearest_shape(str(self.config.model_type))}`."
            ) from None


def read_model(name: str, revision: str | None = None) -> PlannedModel:
    """The model called `name`: a directory with a config.json, such a file itself, a hub id, or a well-known shape.

    Raises ValueError for anything else, an architecture that transformers does not have, and a config that it cannot
    read.
    """
    path = Path(name).expanduser()
    if name in SHAPES and not path.exists():
        return PlannedModel(name, _config_of(SHAPES[name], name), torch.bfloat16)
    if path.is_file() and path.suffix == ".json":
        return _from_file(name, path)
    gguf = gguf_file(name, revision)
    if gguf is not None:
        file = open_model(gguf)
        return PlannedModel(name, read_gguf_config(file.metadata, file.tensors, file.values), most_stored(file), file)
    folder = model_folder_of(name, revision)
    found = _from_file(name, folder / "config.json")
    if not found.is_packed:
        with suppress(ValueError):  # a folder without weights is all that a plan needs
            return replace(found, stored=stored_dtype(weight_files(folder)))
    return found


def model_folder_of(name: str, revision: str | None) -> Path:
    try:
        folder = model_folder(name, revision, weights=False)
    except ValueError as error:
        known = get_close_matches(name.lower(), SHAPES, n=3, cutoff=0.3) or list(SHAPES)
        raise ValueError(f"{error} A plan also takes a config.json, or a known shape: {', '.join(known)}.") from None
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json, which is all that a plan needs of a model.")
    return folder


def _from_file(name: str, path: Path) -> PlannedModel:
    values = read_json(path)
    directory.refuse_quantised(values, path.parent)
    config, text = _config_of(values, str(path)), text_values(values)
    packed: dict[str, Any] = getattr(config, "quantization_config", None) or {}
    if directory.take_packed(config):
        twice = packed.get("bnb_4bit_use_double_quant")
        return PlannedModel(name, config, torch.bfloat16, packing="nf4_dq" if twice else "nf4")
    named = values.get("dtype") or values.get("torch_dtype") or text.get("torch_dtype") or "bfloat16"
    return PlannedModel(name, config, DTYPES.get(str(named).removeprefix("torch."), torch.float32))


def _config_of(values: dict[str, Any], name: str) -> PretrainedConfig:
    kind = values.get("model_type")
    if kind is None:
        raise ValueError(f"{name} has no model_type, so its architecture is unknown; add it, such as `llama`.")
    if kind not in CONFIG_MAPPING:
        near = get_close_matches(str(kind), list(CONFIG_MAPPING), n=3, cutoff=0.5)
        raise ValueError(
            f"{name}: the architecture {kind} is none that transformers has"
            + (f"; did you mean {' or '.join(near)}?" if near else ". Update transformers, or give another model.")
        )
    _check_fields(values, name, str(kind))
    try:
        return AutoConfig.for_model(kind, **{key: value for key, value in values.items() if key != "model_type"})
    except directory.UNREADABLE as error:
        raise ValueError(f"{name}: transformers cannot read this config: {one_line(error)}") from None


def _check_fields(values: dict[str, Any], name: str, kind: str) -> None:
    """transformers fills a missing size from its defaults, so the plan would be of another model."""
    defaults = CONFIG_MAPPING[kind]()
    text = text_values(values)
    known = defaults.get_text_config()
    aliases = {new: old for old, new in getattr(known, "attribute_map", {}).items()}
    wanted = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [
        field
        for field in wanted
        if hasattr(known, field)
        and field not in text
        and getattr(known, "attribute_map", {}).get(field) not in text
        and aliases.get(field) not in text
    ]
    if missing:
        raise ValueError(
            f"{name} lacks {', '.join(missing)}, without which the size of this {kind} is unknown. Take config.json "
            "whole from where the model is published."
        )


def text_values(values: dict[str, Any]) -> dict[str, Any]:
    """Of the text part, for a model with several."""
    found = values.get("text_config")
    return found if isinstance(found, dict) else values


def nearest_shape(kind: str) -> str:
    return next((name for name, values in SHAPES.items() if values["model_type"] == kind), "llama-3-8b")


def layer_kinds(layers: nn.ModuleList, types: list[str] | None, trained_below: bool) -> list[tuple[Any, ...]]:
    """For each decoder layer what tells it from others: its tensors' names, types and shapes, its kind of attention,
    and whether anything below it is trained, which is what it would pass a gradient to."""
    kinds = []
    for number, layer in enumerate(layers):
        tensors = [(name, x.dtype, tuple(x.shape), x.requires_grad) for name, x in _tensors(layer)]
        kinds.append((trained_below, *(types[number : number + 1] if types else ()), *tensors))
        trained_below = trained_below or any(p.requires_grad for p in layer.parameters())
    return kinds


def _tensors(layer: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*layer.named_parameters(), *layer.named_buffers()]
