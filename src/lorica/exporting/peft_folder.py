"""The adapter as a folder that PEFT, transformers and vLLM read.

As it is, or in the form that servers read right (`profile="vllm"`): vLLM takes one rank and one alpha for all modules
(versions to 0.30 ignored rank_pattern and alpha_pattern), so every pair is padded with zeros to the largest rank, and
its scale folded into B, which leaves alpha / r exactly 1.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lorica.exporting.changes import PREFIX, LowRank, read_changes
from lorica.exporting.source import Source, open_trained
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written, WrittenWeight
from lorica.files import read_json, write_json, write_safetensors
from lorica.lora.checkpoint import CONFIG, WEIGHTS
from lorica.lora.checkpoint import read_weights as read_adapter

PROFILES = ("vllm",)
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what its --max-lora-rank may be
BESIDE = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template.jinja")


def write_peft(source: Source, weights: Weights, folder: Path, profile: str | None = None) -> Written:
    """Write the adapter into `folder`.

    Raises ValueError for a full fine-tune, an unknown profile, and what the profile's reader refuses.
    """
    if source.whole:
        raise ValueError(f"the run in {source.path} trained the whole model, so there is no adapter; use --to merged.")
    if profile is None:
        for name in (WEIGHTS, CONFIG):
            shutil.copyfile(source.trained / name, folder / name)
    elif profile == "vllm":
        _write_uniform(source, weights, folder)
    else:
        raise ValueError(f'there is no profile "{profile}"; there are {", ".join(PROFILES)}.')
    for path in sorted({path for pattern in BESIDE for path in source.trained.glob(pattern)}):
        shutil.copyfile(path, folder / path.name)
    return Written(
        sorted(folder.iterdir()),
        lambda: _compared(folder, weights, source),
        lambda dtype: open_trained(source, dtype, folder),
        exact=True,
        notes=[*(_notes(folder) if profile == "vllm" else []), *source.notes],
    )


def _write_uniform(source: Source, weights: Weights, folder: Path) -> None:
    pairs = plain_pairs(weights, "vLLM")
    rank = max(pair.down.shape[0] for pair in pairs.values())
    tensors: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        empty = rank - pair.down.shape[0]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.nn.functional.pad(pair.down, (0, 0, 0, empty))
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.nn.functional.pad(pair.up * pair.scale, (0, empty))
    config = read_json(source.trained / CONFIG)
    config |= {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    metadata = read_adapter(source.trained)[0]
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt", "lorica": json.dumps(metadata, sort_keys=True)})
    write_json(folder / CONFIG, config)


def plain_pairs(weights: Weights, reader: str) -> dict[str, LowRank]:
    """The low-rank pairs by module. Raises ValueError if the adapter holds anything else, which `reader` refuses."""
    pairs: dict[str, LowRank] = {}
    ends = weights.skeleton.embedding_and_head()
    for parameter, change in weights.changes.by_parameter.items():
        what = None
        if not isinstance(change, LowRank):
            what = "weights trained whole (modules_to_save) or token by token"
        elif change.magnitude is not None:
            what = "DoRA's magnitudes"
        elif parameter in ends:
            what = "adapters on the embedding or the output head"
        if what is not None:
            raise ValueError(f"{reader} does not take {what} ({parameter}). Use --to merged, or --to gguf.")
        assert isinstance(change, LowRank)
        pairs[parameter.removesuffix(".weight")] = change
    return pairs


def _notes(folder: Path) -> list[str]:
    rank = read_json(folder / CONFIG)["r"]
    allowed = next((size for size in VLLM_RANKS if size >= rank), None)
    if allowed is None:
        return [f"the adapter has rank {rank}, more than the {VLLM_RANKS[-1]} that vLLM takes; serve it merged"]
    return [f"serve it with: vllm serve BASE --enable-lora --max-lora-rank {allowed} --lora-modules NAME=PATH"]


def _compared(folder: Path, weights: Weights, source: Source) -> Iterator[WrittenWeight]:
    written = read_changes(weights.skeleton, folder, allow_other_base=source.allow_other_base).by_parameter
    if written.keys() != weights.changes.by_parameter.keys():
        raise ValueError(f"{folder} does not hold what was written to it; the disk may be failing.")
    for parameter, stored, change in weights.changed():
        base = stored.read().float()
        yield WrittenWeight(parameter, "adapter", base, change.apply(base), base, written[parameter].apply(base))
