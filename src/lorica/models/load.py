"""Where a base comes from: a directory in transformers' format or a hub id.

A local path never touches the network; code and pickles in a model's directory are never run. Every tensor is accounted
for: a missing one is an error, an unused one is listed.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lorica.models.fingerprint import Progress, hash_template, hash_tokenizer, hash_weight_files
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
    folder = _local_folder(name, revision)
    files = weight_files(folder)
    chosen_device = choose_device(device)
    config = _config(folder)
    precision = choose_precision(dtype, _stored_dtype(files), chosen_device)
    model, notes = _model(folder, config, precision.dtype)
    _check_finite(model, folder)
    tokenizer = _tokenizer(folder)
    hashes = {"base": hash_weight_files(files, progress), "tokenizer": hash_tokenizer(tokenizer)}
    template = hash_template(tokenizer)
    if template is not None:
        hashes["template"] = template
    return Base(model.to(chosen_device).eval(), tokenizer, name, hashes, precision.dtype, precision.reason, notes)


def _local_folder(name: str, revision: str | None) -> Path:
    """The directory itself, or the hub snapshot of an id."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"model.revision is {revision}, but {name} is a directory, which has one version only; leave it out."
            )
        return folder
    if folder.suffix == ".gguf":
        raise ValueError(f"{name}: GGUF bases cannot be trained on yet; give a transformers directory or a hub id.")
    looks_local = folder.exists() or folder.is_absolute() or name.startswith(".") or name.count("/") != 1
    if looks_local:
        what = "is a file" if folder.is_file() else "does not exist"
        raise ValueError(
            f"the model {name} {what}; expected a directory with config.json and *.safetensors, or a hub id."
        )
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{name} is no directory here, and could not be had from the hub ({reason}). Check the spelling, the "
            "network, and "
            "for gated models that you are logged in (hf auth login)."
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model directory. Raises ValueError if there are none, or a listed shard is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_json(index)["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of its {len(names)} weight shards ({missing[0]} ...); download "
                "them again."
            )
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = sorted(file.name for file in folder.glob("*.bin")) + sorted(file.name for file in folder.glob("*.pt*"))
    if pickles:
        raise ValueError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which can run code when it is opened; Lorica reads "
            "safetensors only. Convert it where you trust it: "
            "AutoModelForCausalLM.from_pretrained(path).save_pretrained(new_path)."
        )
    hint = " It is an adapter; give its base as the model." if (folder / "adapter_config.json").is_file() else ""
    raise ValueError(f"{folder} holds no model.safetensors, so there are no weights to train on.{hint}")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download the model again.") from None


def _config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} has no config.json, so its architecture is unknown; it is no transformers model directory."
        )
    values = _json(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        if "auto_map" in values:
            raise ValueError(
                f"{folder} needs code of its own ({values['auto_map']}), which Lorica never runs. Use a version "
                "of the model "
                "that transformers has built in."
            ) from None
        raise ValueError(f"{folder / 'config.json'}: transformers cannot read it: {error}") from None


def _stored_dtype(files: list[Path]) -> torch.dtype:
    try:
        with safe_open(files[0], "pt") as file:
            return file.get_tensor(next(iter(file.keys()))).dtype
    except (SafetensorError, StopIteration) as error:
        raise ValueError(f"{files[0]} is damaged ({error}); download it again.") from None


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
        )
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise ValueError(
            f"the weights in {folder} cannot be loaded as {config.model_type}: {str(error).strip()}"
        ) from None
    missing = sorted(told["missing_keys"])
    if missing or told["mismatched_keys"]:
        wrong = missing or sorted(str(key) for key in told["mismatched_keys"])
        raise ValueError(
            f"{folder} lacks {len(wrong)} tensors of a {config.model_type} with this config "
            f"({', '.join(wrong[:3])} ...), which "
            "would be random numbers; the download is incomplete or config.json belongs to another model."
        )
    unused = sorted(told["unexpected_keys"])
    notes = (
        [f"{len(unused)} tensors in {folder} are not used by {type(model).__name__}: {', '.join(unused[:5])}"]
        if unused
        else []
    )
    return model, notes


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
        raise ValueError(
            f"{folder} has no tokenizer that transformers can read: {str(error).strip().splitlines()[0]}"
        ) from None
