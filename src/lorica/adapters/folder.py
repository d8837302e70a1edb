"""An adapter folder in PEFT's format, read as pairs and written from pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorica.adapters.pairs import Pair
from lorica.config import LoraConfig
from lorica.lora.checkpoint import CONFIG, WEIGHTS, read_settings, read_weights, trained_biases, write_files
from lorica.lora.peft_config import EMBEDDING_PAIR, PAIR, PREFIX, lora_config, pair_keys
from lorica.lora.targets import strength_of


@dataclass(frozen=True)
class AdapterFiles:
    """A saved adapter. `pairs` by module name; `embeddings` are those of them that look rows up; `others` are the
    tensors beside the pairs (whole modules, token rows) by their names in the file."""

    folder: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    pairs: dict[str, Pair]
    embeddings: frozenset[str]
    others: dict[str, Tensor]


def read_adapter(folder: str | Path) -> AdapterFiles:
    """Read the adapter in `folder`, strictly.

    Raises ValueError for a missing or damaged file, a pickle, settings that change what an adapter computes in a way
    that this version does not have, half a pair, values that are not finite, and DoRA, whose magnitudes make what it
    adds depend on the base.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file, and adapters are combined and shrunk as PEFT's folders. Make one of an adapter of "
            f"llama.cpp's with: lorica export {folder} --to peft --base MODEL."
        )
    values = read_settings(folder)
    config = lora_config(values, folder / CONFIG)
    if config.use_dora:
        raise ValueError(
            f"{folder} is a DoRA adapter: what it adds depends on the base's own weights, so it cannot be combined or "
            "shrunk by itself. Merge it into its base, or train a plain LoRA."
        )
    provenance, tensors = read_weights(folder)
    pairs = read_pairs(tensors, config, folder)
    if not pairs:
        raise ValueError(f"{folder / WEIGHTS} holds no low-rank pair, so there is nothing to combine or to shrink.")
    embeddings = frozenset(name for name in pairs if f"{PREFIX}{name}{EMBEDDING_PAIR[0]}" in tensors)
    others = {key: tensor for key, tensor in tensors.items() if ".lora_" not in key}
    biases = sorted(key for key in others if key.endswith(".bias"))
    if biases and values.get("bias", "none") != "none":
        raise ValueError(trained_biases(folder / WEIGHTS, biases[0]))
    return AdapterFiles(folder, values, provenance, pairs, embeddings, others)


def read_pairs(tensors: Mapping[str, Tensor], config: LoraConfig, folder: Path) -> dict[str, Pair]:
    """The pairs among the tensors of the file in `folder`, by module name. Raises ValueError for half a pair, and for
    values that are not finite."""
    found: dict[str, Pair] = {}
    for ends in (PAIR, EMBEDDING_PAIR):
        for stem in {key.removesuffix(end) for key in tensors for end in ends if key.endswith(end)}:
            down, up = (stem + end for end in ends)
            missing = [key for key in (down, up) if key not in tensors]
            if missing:
                raise ValueError(f"{folder / WEIGHTS} has half a pair, no {missing[0]}; the adapter is incomplete.")
            name = stem.removeprefix(PREFIX)
            found[name] = _pair(tensors, down, up, strength_of(name, config).scale, folder)
    return dict(sorted(found.items()))


def _pair(tensors: Mapping[str, Tensor], down: str, up: str, scale: float, folder: Path) -> Pair:
    a, b = tensors[down].double(), tensors[up].double()
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise ValueError(f"{folder / WEIGHTS}: {down} {tuple(a.shape)} and {up} {tuple(b.shape)} are not a pair.")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError(f"{folder / WEIGHTS}: {down} or {up} holds NaN or infinite values; it cannot be used.")
    return Pair(a, b * scale)


def write_adapter(folder: Path, like: AdapterFiles, pairs: Mapping[str, Pair], made: Mapping[str, Any]) -> None:
    """Write `pairs` as a plain LoRA of scale 1 with the base and the other tensors of `like`; `made` says of what and
    how, and stays in the provenance.

    Raises OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = dict(like.others)
    for name, pair in pairs.items():
        down, up = pair_keys(name, name in like.embeddings)
        tensors[down], tensors[up] = pair.down.float(), pair.up.float()
    provenance = {**like.provenance, "made": dict(made)}
    write_files(folder, _config(like.config, pairs), provenance, tensors)


def _config(values: dict[str, Any], pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """Alpha is the rank everywhere, which is a scale of 1 for every reader."""
    [(common, _)] = Counter(pair.rank for pair in pairs.values()).most_common(1)
    other = {name: pair.rank for name, pair in sorted(pairs.items()) if pair.rank != common}
    return values | {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": other,
        "alpha_pattern": dict(other),
        "use_rslora": False,
        "init_lora_weights": True,
        "target_modules": sorted(pairs),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
