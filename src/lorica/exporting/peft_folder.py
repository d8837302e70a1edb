"""The adapter as a folder that PEFT, transformers and vLLM read.

As it is, or in the form that servers read right (`profile="vllm"`): vLLM takes one rank and one alpha for all modules
(versions to 0.30 ignored rank_pattern and alpha_pattern), so every pair is padded with zeros to the largest rank, and
its scale folded into B, which leaves alpha / r exactly 1.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorica.exporting.adapters import check_low_rank, compared, low_rank_pairs
from lorica.exporting.options import Options
from lorica.exporting.weights import Weights
from lorica.exporting.written import Written
from lorica.files import read_json
from lorica.lora.checkpoint import CONFIG, WEIGHTS, read_files, write_files
from lorica.lora.peft_config import pair_keys
from lorica.models.fingerprint import Progress
from lorica.run.reopen import open_trained
from lorica.run.source import Source

PROFILES = ("vllm",)
INSTEAD = "Use --to merged, or --to gguf."
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what its --max-lora-rank may be
BESIDE = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template.jinja")


def write_peft(
    source: Source, weights: Weights, folder: Path, options: Options, _progress: Progress | None = None
) -> Written:
    """Write the adapter into `folder`, for every reader of PEFT's format or shaped for that of `profile`.

    Raises ValueError for a full fine-tune, and for what the profile's reader refuses.
    """
    check_low_rank(source, INSTEAD)
    if options.profile is None and source.trained.is_dir():
        for name in (WEIGHTS, CONFIG):
            shutil.copyfile(source.trained / name, folder / name)
    else:
        values, provenance, tensors = read_files(source.trained, weights.skeleton.model.config)
        if options.profile is not None:
            values, tensors = _uniform(source, weights, values)
        write_files(folder, {"base_model_name_or_path": source.base_name} | values, provenance, tensors)
    for path in sorted({path for pattern in BESIDE for path in source.trained.glob(pattern) if path.is_file()}):
        shutil.copyfile(path, folder / path.name)
    return Written(
        sorted(folder.iterdir()),
        lambda: compared(folder, weights, source),
        lambda dtype: open_trained(source, dtype, folder),
        exact=True,
        notes=[*(_notes(folder) if options.profile == "vllm" else []), *source.notes],
    )


def _uniform(source: Source, weights: Weights, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of one rank and scale."""
    pairs = low_rank_pairs(source, weights, "vLLM", weights.skeleton.embedding_and_head(), INSTEAD)
    rank = max(pair.down.shape[0] for pair in pairs.values())
    tensors: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        empty = rank - pair.down.shape[0]
        down, up = pair_keys(name.removesuffix(".weight"), embedding=False)
        tensors[down] = torch.nn.functional.pad(pair.down, (0, 0, 0, empty))
        tensors[up] = torch.nn.functional.pad(pair.up * pair.scale, (0, empty))
    one = {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    return values | one, tensors


def _notes(folder: Path) -> list[str]:
    rank = read_json(folder / CONFIG)["r"]
    allowed = next((size for size in VLLM_RANKS if size >= rank), None)
    if allowed is None:
        return [f"the adapter has rank {rank}, more than the {VLLM_RANKS[-1]} that vLLM takes; serve it merged"]
    return [f"serve it with: vllm serve BASE --enable-lora --max-lora-rank {allowed} --lora-modules NAME=PATH"]
