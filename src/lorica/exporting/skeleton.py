"""A model's modules without its weights, and which parameter each tensor of its files becomes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


@dataclass
class Skeleton:
    """`model` is on torch's meta device: every module and shape, no values. `hashes` and `name` are the base's, so that
    an adapter can tell whether it belongs to it."""

    model: Any
    name: str
    hashes: dict[str, str]

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
