"""Where a base comes from: a directory in transformers' format or a hub id.

A local path never touches the network; code and pickles in a model's directory are never run. Every tensor is accounted
for: a missing one is an error, an unused one is listed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lorica.files import read_json
from lorica.models.fingerprint import Progress, hash_template, hash_tokenizer, hash_weight_files
from lorica.models.locate import model_folder, one_line, stored_dtype, weight_files
from lorica.models.precision import choose_device, choose_precision


@dataclass
class Base:
    """A loaded base. `hashes` has `base`, `tokenizer` and, with a chat template, `template`; `notes` are lines the user
    should see; `name` is the path or hub id it was asked for by."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    hashes: dict[str, str]
    dtype: torch.dtype
    dtype_reason: str
    notes: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def stop_ids(self) -> set[int]:
        """Tokens at which generation ends: the generation config's, and the tokenizer's end of sequence."""
        configured = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return {i for i in [*ids, self.tokenizer.eos_token_id] if i is not None}

    @property
    def longest(self) -> int | None:
        """Most tokens the model has positions for, if its config says."""
        text_config = self.model.config.get_text_config()
        return getattr(text_config, "max_position_embeddings", None) or getattr(text_config, "n_positions", None)

    @property
    def hidden_size(self) -> int:
        return self.model.config.get_text_config().hidden_size


def load(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    progress: Progress | None = None,
) -> Base:
    """Load a causal language model and its tokenizer, in evaluation mode.

    `path` is a directory, or a hub id (`owner/name`) if no such directory exists. `dtype`: auto, bf16 or fp32.
    Raises ValueError for a path that is no model directory, weights that are missing, pickled, damaged or not finite, a
    model that needs its own code, or no tokenizer.
    """
    name = str(path)
    folder = model_folder(name, revision)
    files = weight_files(folder)
    chosen_device = choose_device(device)
    config = _config(folder)
    precision = choose_precision(dtype, stored_dtype(files), chosen_device)
    model, notes = _model(folder, config, precision.dtype)
    _check_finite(model, folder)
    tokenizer = _tokenizer(folder)
    hashes = {"base": hash_weight_files(files, progress), "tokenizer": hash_tokenizer(tokenizer)}
    template = hash_template(tokenizer)
    if template is not None:
        hashes["template"] = template
    return Base(model.to(chosen_device).eval(), tokenizer, name, hashes, precision.dtype, precision.reason, notes)


def _config(folder: Path) -> Any:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no config.json, so its architecture is unknown; it is no transformers model directory."
        )
    values = read_json(path)
    _refuse_quantised(values, folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, OSError, StrictDataclassError) as error:
        if "auto_map" in values:
            raise ValueError(
                f"{folder} needs code of its own ({values['auto_map']}), which Lorica never runs. Use a version of the "
                "model that transformers has built in."
            ) from None
        raise ValueError(f"{path}: transformers {transformers.__version__} cannot read it: {one_line(error)}") from None


def _refuse_quantised(values: dict[str, Any], folder: Path) -> None:
    nested = [value for value in values.values() if isinstance(value, dict)]
    found = next((v["quantization_config"] for v in (values, *nested) if v.get("quantization_config")), None)
    if found is not None:
        method = found.get("quant_method", "an unnamed method") if isinstance(found, dict) else found
        raise ValueError(
            f"the weights in {folder} are quantised by {method}; training on packed weights is not available yet. Use "
            "the unquantised version of this model."
        )


def _model(folder: Path, config: Any, dtype: torch.dtype) -> tuple[Any, list[str]]:
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with the shapes
        )
    except (SafetensorError, RuntimeError, OSError, ValueError, ImportError) as error:
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


def _check_finite(model: nn.Module, folder: Path) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"{folder}: {name} holds NaN or infinite values; the weights are damaged, download them again."
            )


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} has no tokenizer that transformers can read: {one_line(error)}") from None
