"""Where a base comes from: a directory in transformers' format, a hub id, or a GGUF file.

A local path never touches the network; code and pickles in a model's directory are never run. Every tensor is accounted
for: a missing one is an error, an unused one is listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lorica.gguf.split import open_model
from lorica.models import directory
from lorica.models.fingerprint import Progress, hash_gguf, hash_template, hash_tokenizer, hash_weight_files
from lorica.models.gguf_base import build, gguf_tokenizer, most_stored
from lorica.models.locate import gguf_file, model_folder, weight_files
from lorica.models.packing import read_packed
from lorica.models.precision import Precision, choose_device, choose_precision
from lorica.models.stored import StoredTensor, stored_dtype, stored_tensors


@dataclass
class Base:
    """A loaded base. `hashes` has `base`, `tokenizer` and, with a chat template, `template`, and `weights` where they
    were packed on load (its value is the setting), and `stored` then has those tensors as they were; `notes` are
    lines the user should see; `name` is the path or hub id it was asked for by."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    hashes: dict[str, str]
    dtype: torch.dtype
    dtype_reason: str
    notes: list[str] = field(default_factory=list)
    stored: Mapping[str, StoredTensor] | None = None

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
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def hidden_size(self) -> int:
        return self.model.config.get_text_config().hidden_size


def load(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    tokenizer: str | None = None,
    weights: str = "as-is",
    progress: Progress | None = None,
) -> Base:
    """Load a causal language model and its tokenizer, in evaluation mode.

    `path` is a GGUF file, a directory, or a hub id (`owner/name`) if no such directory exists. `dtype`: auto, bf16 or
    fp32. `tokenizer` is a directory to read the tokenizer from, in place of the model's own. `weights` packs the
    matrices of a 16-bit base as they are read: nf4, or a mixture of llama.cpp's such as q4_k_m.
    Raises ValueError for a path that is no model, weights that are missing, pickled, damaged or not finite, a model
    that needs its own code or is of an architecture that GGUF files are not read of, or no tokenizer.
    """
    name = str(path)
    chosen_device = choose_device(device)
    file = gguf_file(name, revision)
    if file is not None:
        if weights != "as-is":
            raise ValueError(f"model.weights is {weights}, but {name} is a GGUF file, which is used as it is packed.")
        return _load_gguf(name, file, dtype, chosen_device, tokenizer, progress)
    folder = model_folder(name, revision)
    files = weight_files(folder)
    config = directory.read_config(folder)
    directory.refuse_quantised(config.to_dict(), folder)
    packed_already = directory.take_packed(config)
    stored = torch.bfloat16 if packed_already else stored_dtype(files)
    precision = choose_precision(dtype, stored, chosen_device)
    if weights != "as-is" or packed_already:
        model, notes = read_packed(folder, files, config, precision.dtype, weights)
    else:
        model, notes = directory.read_model(folder, config, precision.dtype)
        directory.check_finite(model, folder)
    words = directory.read_tokenizer(Path(tokenizer) if tokenizer else folder)
    base = _base(model.to(chosen_device), words, name, hash_weight_files(files, progress), precision, notes)
    if weights != "as-is":
        base.hashes["weights"], base.stored = weights, stored_tensors(files)
    return base


def _load_gguf(
    name: str, path: Path, dtype: str, device: torch.device, tokenizer: str | None, progress: Progress | None
) -> Base:
    file = open_model(path)
    precision = choose_precision(dtype, most_stored(file), device)
    words = gguf_tokenizer(file, tokenizer)
    model, notes = build(file, precision.dtype)
    return _base(model.to(device), words, name, hash_gguf(file, progress), precision, notes)


def _base(
    model: PreTrainedModel, tokenizer: Any, name: str, weights_hash: str, precision: Precision, notes: list[str]
) -> Base:
    hashes = {"base": weights_hash, "tokenizer": hash_tokenizer(tokenizer)}
    template = hash_template(tokenizer)
    if template is not None:
        hashes["template"] = template
    return Base(model.eval(), tokenizer, name, hashes, precision.dtype, precision.reason, notes)
