"""A model's modules without its weights, and which parameter each tensor of its files becomes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from lorica.models.facts import UNREADABLE
from lorica.models.locate import one_line


@dataclass
class Skeleton:
    """`model` is on torch's meta device: every module and shape, no values. `hashes` and `name` are the base's, where
    they are known, so that an adapter can tell whether it belongs to it."""

    model: Any
    name: str
    hashes: dict[str, str] = field(default_factory=dict)

    def parameters_of(self, stored: Iterable[str]) -> tuple[dict[str, str], set[str]]:
        """What transformers calls each tensor of the files: parameter name to the tensor's, and the parameters that it
        makes of several tensors, or of one by more than renaming."""
        conversions = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
        known = self.model.state_dict()
        names: dict[str, str] = {}
        made: set[str] = set()
        for name in stored:
            parameter, converter = rename_source_key(name, renamings, converters, self.model.base_model_prefix, known)
            if converter is None:
                names[parameter] = name
            else:
                made.add(parameter)
        return names, made

    def embedding_and_head(self) -> set[str]:
        """Names of the weights of the input embedding and of the output head."""
        ends = [self.model.get_input_embeddings(), self.model.get_output_embeddings()]
        named = self.model.named_modules(remove_duplicate=False)
        return {f"{name}.weight" for name, module in named if any(module is end for end in ends)}


def skeleton(folder: Path, name: str, base_hash: str) -> Skeleton:
    """The modules of the model in `folder`. Raises ValueError for a config that transformers cannot read."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return skeleton_of(config, name, base_hash)
    except UNREADABLE as error:
        raise ValueError(f"{folder / 'config.json'}: transformers cannot build this model: {one_line(error)}") from None


def skeleton_of(config: PretrainedConfig, name: str, base_hash: str) -> Skeleton:
    """The modules of the model that `config` describes."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return Skeleton(model, name, {"base": base_hash})
