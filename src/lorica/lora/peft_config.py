"""`adapter_config.json`: our settings in PEFT's words, and PEFT's in ours.

Written out resolved: module names instead of "all-linear", and per module the rank and alpha that differ from the
common ones, so that any reader builds the same adapter. Read strictly: a setting of PEFT's that changes what the
adapter computes and that this version does not have is refused by name.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorica.config.rules import broken_pattern
from lorica.config.schema import LoraConfig
from lorica.lora.adapter import Adapter

PREFIX = "base_model.model."  # of the names of an adapter's tensors
PAIR, EMBEDDING_PAIR = (".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")
MAGNITUDE, ROWS = ".lora_magnitude_vector", ".token_adapter.trainable_tokens_delta"
WRAPPERS = re.compile(r"^module\.|(?<![^.])(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
ADAPTER_NAME = re.compile(r"(\.lora_[AB]|\.lora_embedding_[AB]|\.trainable_tokens_delta)\.(?!weight$)[^.]+(\.weight)?$")
_SAME_NAME = [
    "r",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_rslora",
    "use_dora",
    "layers_to_transform",
    "layers_pattern",
    "trainable_token_indices",
]
_OTHER_NAME = {"lora_alpha": "alpha", "lora_dropout": "dropout"}
_BOOKKEEPING = [
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_type",
    "peft_version",
    "task_type",
    "megatron_core",
    "fan_in_fan_out",
    "qalora_group_size",
    "runtime_config",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "bias",  # trained ones are tensors of the file
    "ensure_weight_tying",  # the files hold both halves of what it tied
]
_STARTS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def canonical_key(key: str) -> str:
    """PEFT's name for a tensor that a trainer's state dict calls otherwise: with what FSDP, torch.compile or a
    data-parallel wrapper put around modules, with the adapter's name, or without the prefix."""
    key = WRAPPERS.sub("", key)
    key = key if key.startswith("base_model.") else PREFIX + key
    return ADAPTER_NAME.sub(r"\1\2", key)


def pair_keys(module: str, embedding: bool) -> tuple[str, str]:
    """What PEFT calls the two matrices of a pair."""
    down, up = EMBEDDING_PAIR if embedding else PAIR
    return f"{PREFIX}{module}{down}", f"{PREFIX}{module}{up}"


def adapter_config(adapter: Adapter, lane: int = 0) -> dict[str, Any]:
    """The content of a lane's `adapter_config.json`, sorted lists, no machine-dependent values."""
    r, alpha, rank_pattern, alpha_pattern = _ranks_and_alphas(adapter, lane)
    config = adapter.configs[lane]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if hasattr(adapter.model, "lm_head") or hasattr(adapter.model, "generate") else None,
        "base_model_name_or_path": adapter.base_name,
        "revision": None,
        "inference_mode": True,
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "target_modules": _module_names(adapter.model, list(adapter.layers)),
        "exclude_modules": None,
        "modules_to_save": sorted(adapter.copies) or None,
        "trainable_token_indices": _token_indices(adapter),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "init_lora_weights": True,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for layer in adapter.layers.values()),
        "layers_to_transform": None,
        "layers_pattern": None,
    }


def _ranks_and_alphas(adapter: Adapter, lane: int) -> tuple[int, float, dict[str, int], dict[str, float]]:
    """Common rank and alpha, and by full module name those that differ. A start pair doubles the rank at the same
    scale."""
    times = {name: 1 if layer.start_A is None else 2 for name, layer in adapter.layers.items()}
    strengths = {name: layer.strengths[lane] for name, layer in adapter.layers.items()}
    power = 0.5 if adapter.configs[lane].use_rslora else 1.0
    ranks = {name: strength.r * times[name] for name, strength in strengths.items()}
    alphas = {name: strength.alpha * times[name] ** power for name, strength in strengths.items()}
    (r, alpha), _ = Counter((ranks[name], alphas[name]) for name in ranks).most_common(1)[0]
    rank_pattern = {name: ranks[name] for name in sorted(ranks) if ranks[name] != r}
    alpha_pattern = {name: alphas[name] for name in sorted(alphas) if alphas[name] != alpha}
    return r, alpha, rank_pattern, alpha_pattern


def _module_names(model: nn.Module, chosen: list[str]) -> list[str]:
    """The last parts of the names where those alone choose the same modules, else the full names."""
    leaves = {name.rsplit(".", 1)[-1] for name in chosen}
    inside = tuple(f"{name}." for name in chosen)
    everything = [
        name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in leaves and not name.startswith(inside)
    ]
    return sorted(leaves) if sorted(everything) == sorted(chosen) else sorted(chosen)


def _token_indices(adapter: Adapter) -> dict[str, list[int]] | None:
    return {name: part.tokens.tolist() for name, part in adapter.rows.items() if not part.shared} or None


def lora_config(values: dict[str, Any], path: Path) -> LoraConfig:
    """The settings in an `adapter_config.json` that was read from `path`.

    Raises ValueError naming the key for another adapter method, a setting this version does not have, or a wrong value.
    """
    if values.get("peft_type") != "LORA":
        raise ValueError(
            f"{path}: peft_type is {values.get('peft_type')!r}; Lorica reads LoRA adapters (peft_type LORA)."
        )
    known = {*_SAME_NAME, *_OTHER_NAME, *_BOOKKEEPING}
    foreign = sorted(
        key for key, value in values.items() if key not in known and value not in (None, False, 0, "", [], {})
    )
    if foreign:
        raise ValueError(
            f"{path} sets {', '.join(foreign)}, which changes what the adapter computes and which this version does "
            "not have. Merge it into its base with PEFT (merge_and_unload), and use the merged model."
        )
    _check_start(values, path)
    # PEFT takes an empty list for none given, where its absence means the same
    fields = {key: values[key] for key in _SAME_NAME if values.get(key) not in (None, [], "")}
    fields |= {ours: values[theirs] for theirs, ours in _OTHER_NAME.items() if values.get(theirs) is not None}
    try:
        config = LoraConfig(**({"r": 8, "alpha": 8} | fields))  # PEFT's defaults, for a file that leaves them out
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {where} is {first['input']!r}: {first['msg']}.") from None
    if (broken := broken_pattern(config)) is not None:
        raise ValueError(f'{path} has "{broken}", which is no valid regular expression.')
    return config


def _check_start(values: dict[str, Any], path: Path) -> None:
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_STARTS_THAT_CHANGE_THE_BASE):
        raise ValueError(
            f'{path}: init_lora_weights is "{start}", which changed the base when the adapter was made; on the '
            "untouched base it computes something else. Save it from PEFT with "
            "path_initial_model_for_weight_conversion, as a plain LoRA."
        )
