"""A base from a directory in transformers' format. Every tensor is accounted for."""

from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from lorica.files import read_json
from lorica.models.locate import model_inside, one_line

# What transformers raises for files that it cannot read, and for a config that it can make no model of.
UNREADABLE = (ValueError, TypeError, KeyError, OSError, AttributeError, RuntimeError, StrictDataclassError)

# One of these has its vocabulary, whatever kind it is.
TOKENIZER_FILES = ("tokenizer*", "vocab*", "tekken.json", "*.model", "*.tiktoken", "*.spm", "*.codes")


def read_config(folder: Path) -> Any:
    """Raises ValueError for a folder without a config, and for one that transformers cannot read by itself."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no config.json, so its architecture is unknown; it is no transformers model directory."
        )
    values = read_json(path)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        if "auto_map" in values:
            raise ValueError(
                f"{folder} needs code of its own ({values['auto_map']}), which Lorica never runs. Use a version of the "
                "model that transformers has built in."
            ) from None
        raise ValueError(f"{path}: transformers {transformers.__version__} cannot read it: {one_line(error)}") from None


def refuse_quantised(values: dict[str, Any], folder: Path) -> None:
    """Raises ValueError for a config, as `values`, of weights in another packed form than bitsandbytes' NF4."""
    nested = [value for value in values.values() if isinstance(value, dict)]
    found = next((v["quantization_config"] for v in (values, *nested) if v.get("quantization_config")), None)
    if found is not None and not _is_nf4(found):
        method = found.get("quant_method", "an unnamed method") if isinstance(found, dict) else found
        raise ValueError(
            f"the weights in {folder} are quantised by {method}; of packed weights Lorica reads bitsandbytes' NF4 and "
            "GGUF files. Use the unquantised version of this model; model.weights packs it on load."
        )


def _is_nf4(settings: Any) -> bool:
    return (
        isinstance(settings, dict)
        and settings.get("quant_method") == "bitsandbytes"
        and settings.get("load_in_4bit") is True
        and settings.get("bnb_4bit_quant_type") == "nf4"
    )


def take_packed(config: Any) -> bool:
    """Whether the weights come packed by bitsandbytes. The config then forgets it: the model is built without it."""
    if getattr(config, "quantization_config", None) is None:
        return False
    del config.quantization_config
    return True


def auto_class(config: Any) -> Any:
    """What builds the model of `config`: that of causal language models, and for kinds that transformers has with eyes
    only (Mistral 3, Qwen 2.5 VL) that of models which also see; their language model is what text trains."""
    seeing = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if seeing else AutoModelForCausalLM


def read_model(folder: Path, config: Any, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model, and lines about tensors of the files that it does not use.

    Raises ValueError for weights that cannot be read, are missing, or have another shape than the config says.
    """
    try:
        model, told = auto_class(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with the shapes
        )
    except (*UNREADABLE, SafetensorError, ImportError) as error:
        raise ValueError(
            f"the weights in {folder} cannot be loaded as {config.model_type}: {one_line(error)}"
        ) from None
    _check_complete(told, folder, config.model_type)
    unused = sorted(told["unexpected_keys"])
    what = f"{len(unused)} tensors in {folder} are not used by {type(model).__name__}: {', '.join(unused[:5])}"
    return model, [what] if unused else []


def _check_complete(told: dict[str, Any], folder: Path, model_type: str) -> None:
    """Every tensor of the model has to come from the files, in its shape; transformers would make up the others."""
    missing = sorted(told["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} tensors of a {model_type} with this config ({', '.join(missing[:3])} ...), "
            "which would be random numbers; the download is incomplete or config.json belongs to another model."
        )
    for name, stored, wanted in sorted(told["mismatched_keys"]):
        raise ValueError(
            f"{folder}: {name} is {tuple(stored)} in the files and {tuple(wanted)} by config.json; one of them "
            "belongs to another model."
        )


def read_generation_config(folder: Path, config: Any) -> GenerationConfig:
    """How the folder says to generate, or what follows from `config`. Raises ValueError for a file that is none."""
    if not (folder / "generation_config.json").is_file():
        return GenerationConfig() if config is None else GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{folder / 'generation_config.json'} cannot be read: {one_line(error)}") from None


def check_finite(model: nn.Module, folder: Path) -> None:
    """Raises ValueError naming the first parameter that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"{folder}: {name} holds NaN or infinite values; the weights are damaged, download them again."
            )


def read_tokenizer(folder: Path) -> Any:
    """Raises ValueError for a folder without a tokenizer that transformers can read by itself."""
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        raise ValueError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer.model or the like).{model_inside(folder)} "
            "model.tokenizer names a folder to read it from."
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise ValueError(f"{folder} has no tokenizer that transformers can read: {one_line(error)}") from None
