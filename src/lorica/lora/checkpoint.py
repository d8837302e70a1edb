"""Adapters on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

Writing is byte-reproducible. Reading is strict: every tensor of the file is used, and every tensor of the adapter is in
the file. The safetensors metadata carries the provenance; an adapter whose base is known refuses another base. A GGUF
file of llama.cpp's is read as the folder that PEFT would have of it.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lorica.config.schema import LoraConfig
from lorica.files import json_bytes, read_json, safetensors_pieces, write_with_key
from lorica.lora.adapter import Adapter, check_finite
from lorica.lora.attach import build, check_bare, name_of
from lorica.lora.from_gguf import read_as_peft
from lorica.lora.layer import LoraEmbedding, LoraLayer
from lorica.lora.peft_config import (
    MAGNITUDE,
    PREFIX,
    ROWS,
    adapter_config,
    canonical_key,
    lora_config,
    pair_keys,
)
from lorica.lora.targets import Targets, find_targets, strength_of, tied_pair

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROVENANCE = ("base", "tokenizer", "template", "weights", "start")  # keys that say what an adapter belongs to


def save_adapter(adapter: Adapter, folder: Path, lane: int = 0) -> list[Path]:
    """Write one lane of `adapter` into `folder`; returns the files. What stood there is replaced whole.

    An adapter that did not start at zero (PiSSA, OLoRA) is written as the plain LoRA of rank 2r that it equals. Raises
    ValueError if a tensor is not finite, OSError if the folder cannot be written.
    """
    adapter.check_lane(lane)
    check_finite(adapter, "not saved")
    folder.mkdir(parents=True, exist_ok=True)
    return write_files(folder, adapter_config(adapter, lane), adapter.provenance, adapter_tensors(adapter, lane))


def write_files(
    folder: Path, values: Mapping[str, Any], provenance: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> list[Path]:
    """The inverse of `read_files` for a folder. Killed at any moment, the folder holds the former adapter, this one, or
    weights without a config, which neither Lorica nor PEFT loads. Raises OSError if it cannot be written."""
    metadata = {"format": "pt", "lorica": json.dumps(provenance, sort_keys=True)}
    weights = safetensors_pieces(tensors, metadata)
    write_with_key(folder / WEIGHTS, weights, folder / CONFIG, json_bytes(values))
    return [folder / WEIGHTS, folder / CONFIG]


def adapter_tensors(adapter: Adapter, lane: int = 0) -> dict[str, Tensor]:
    """One lane's tensors under PEFT's names, fp32."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapter.layers.items():
        r = layer.strengths[lane].r
        down, up = layer.lora_A[lane, :r], layer.lora_B[lane, :, :r]
        if layer.start_A is not None and layer.start_B is not None:
            down = torch.cat([down, layer.start_A[lane, :r]], 0)
            up = torch.cat([up, -layer.start_B[lane, :, :r]], 1)
        key_a, key_b = pair_keys(name, isinstance(layer, LoraEmbedding))
        tensors[key_a], tensors[key_b] = down, up
        if layer.magnitude is not None:
            tensors[f"{PREFIX}{name}{MAGNITUDE}"] = layer.magnitude[lane]
    for name, copied in adapter.copies.items():
        tensors |= {f"{PREFIX}{name}.{key}": value for key, value in copied.trained.named_parameters()}
    for name, part in adapter.rows.items():
        if not part.shared:
            tensors[f"{PREFIX}{name}{ROWS}"] = part.rows
    return {key: tensor.detach() for key, tensor in tensors.items()}


def load_adapter(model: Any, path: str | Path, *, allow_other_base: bool = False) -> Adapter:
    """Attach the adapter at `path`, a folder (Lorica's or PEFT's) or a GGUF file of llama.cpp's, to `model`, a torch
    module or what `lorica.load` returned. It is there in evaluation mode, without dropout.

    Raises ValueError for a missing or damaged file, a pickle, a setting this version cannot honour, any missing,
    unexpected or misshapen tensor, non-finite values, and another base than the one the adapter was trained on, unless
    `allow_other_base`. A GGUF file does not say what it was trained on: only its architecture and shapes are checked.
    """
    path = Path(path)
    module: Any = model if isinstance(model, nn.Module) else model.model
    check_bare(module)
    values, metadata, tensors = read_files(path, module.config if path.is_file() else None)
    hashes = getattr(model, "hashes", {})
    _check_base(path, metadata, hashes, allow_other_base)
    config = lora_config(values, part_of(path, CONFIG))
    adapter = Adapter(module, config, provenance=metadata, base_name=name_of(model))
    adapter.notes = [
        f"the adapter in {path} was trained with another {what} than the one beside this base"
        for what in ("tokenizer", "template")
        if metadata.get(what) and hashes.get(what) and metadata[what] != hashes[what]
    ]
    trained, given = (known.get("weights", "as-is") for known in (metadata, hashes))
    if path.is_file():
        adapter.notes.append(f"{path} does not say which base it was trained on; a GGUF adapter never does")
    elif trained != given and hashes:
        adapter.notes.append(f"the adapter in {path} was trained with model.weights {trained}; this base is {given}")
    build(adapter, _targets(module, config, tensors, path))
    try:
        _fill(adapter, tensors, path)
    except ValueError:
        adapter.detach()
        raise
    return adapter.eval()


def load_weights(adapter: Adapter, folder: Path, lane: int = 0, *, allow_other_base: bool = False) -> None:
    """Read the weights in `folder` into an attached adapter of the same shape. Strict as `load_adapter`."""
    adapter.check_lane(lane)
    values, metadata, tensors = read_files(folder, None)
    _check_base(folder, metadata, adapter.provenance, allow_other_base)
    _check_settings(adapter, lora_config(values, folder / CONFIG), folder, lane)
    _fill(adapter, tensors, folder, lane=lane)


def _check_settings(adapter: Adapter, config: LoraConfig, folder: Path, lane: int) -> None:
    """What tensors do not tell: by which scale a pair counts, and of which tokens the rows are."""
    for name, layer in adapter.layers.items():
        saved, attached = strength_of(name, config).scale, layer.strengths[lane].scale
        if not math.isclose(saved, attached, rel_tol=1e-6):
            raise ValueError(
                f"the adapter in {folder} has the scale {saved:g} at {name}, and the one that is attached "
                f"{attached:g}; attach one with its lora_alpha and use_rslora, or use lorica.load_adapter."
            )
    rows = [part.tokens.tolist() for part in adapter.rows.values() if not part.shared]
    saved_rows = config.trainable_token_indices or {}
    if rows != list(saved_rows.values() if isinstance(saved_rows, dict) else [saved_rows]):
        raise ValueError(f"the adapter in {folder} has rows of other tokens than the one that is attached.")


def packing_of(folder: Path) -> str:
    """The `model.weights` without which the adapter in `folder` computes something else (LoftQ's start makes up for
    what packing lost), or as-is, as of a GGUF file. Raises ValueError as `read_weights`."""
    metadata, _ = read_weights(folder) if not folder.is_file() else ({}, {})
    return metadata.get("weights", "as-is") if metadata.get("start") == "loftq" else "as-is"


def read_files(path: Path, model_config: Any) -> tuple[dict[str, Any], dict[str, str], dict[str, Tensor]]:
    """Settings, provenance and tensors of the adapter in a folder, or in a GGUF file for a model of `model_config`, in
    PEFT's words. Raises ValueError as `read_weights` and `read_as_peft`."""
    if path.is_file():
        values, tensors = read_as_peft(path, model_config)
        return values, {}, tensors
    metadata, tensors = read_weights(path)
    return read_settings(path), metadata, tensors


def holds_adapter(folder: Path) -> bool:
    """Whether there is an adapter in `folder`, be it half of one, of which reading says what is wrong."""
    return (folder / CONFIG).is_file() or (folder / WEIGHTS).is_file()


def read_settings(folder: Path) -> dict[str, Any]:
    """What `adapter_config.json` in `folder` holds. Raises ValueError if it is missing or damaged."""
    if (folder / WEIGHTS).is_file() and not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} holds an adapter's weights without their {CONFIG}: saving was cut short, or they were copied "
            "alone. Save or export the adapter again; a run that was cut short ends with: lorica train --resume RUN."
        )
    return read_json(folder / CONFIG)


def part_of(path: Path, name: str) -> Path:
    """A file of an adapter's folder; of one that is a GGUF file, that."""
    return path if path.is_file() else path / name


def read_weights(folder: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Provenance and tensors of the adapter in `folder`. Raises ValueError for no file, a pickle, or a damaged one."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = [file.name for file in folder.glob("adapter_model.*") if file.suffix in (".bin", ".pt", ".pth")]
        if pickles:
            raise ValueError(
                f"{folder} holds {pickles[0]}, a pickle, which can run code when it is opened; Lorica reads "
                "safetensors only. Load it once in PEFT, where you trust it, and save it again with "
                "save_pretrained(safe_serialization=True)."
            )
        inside = sorted(file.parent.name for file in folder.glob(f"*/{WEIGHTS}"))
        hint = f" There are adapters in its folders {', '.join(inside[:5])}; give one of them." if inside else ""
        raise ValueError(f"{folder} holds no {WEIGHTS}; it is no adapter folder in PEFT's format.{hint}")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("lorica", "{}"))
            tensors = {key: file.get_tensor(stored) for stored, key in _names(list(file.keys()), path).items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a backup or train again.") from None
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(key, ""), str) for key in PROVENANCE):
        raise ValueError(f"{path} is damaged (its provenance is {str(metadata)[:80]}, no object of texts).")
    return metadata, tensors


def _names(stored: list[str], path: Path) -> dict[str, str]:
    """The names that PEFT gives to the tensors of a file. Raises ValueError where two would be one."""
    names = {name: canonical_key(name) for name in stored}
    [(name, times)] = Counter(names.values()).most_common(1) or [("", 1)]
    if times > 1:
        raise ValueError(f"{path} holds {times} tensors for {name}, of several adapters; write each to its own folder.")
    return names


def _check_base(folder: Path, metadata: dict[str, str], hashes: dict[str, str], allow_other_base: bool) -> None:
    trained_on, given = metadata.get("base"), hashes.get("base")
    if trained_on and given and trained_on != given and not allow_other_base:
        raise ValueError(
            f"the adapter in {folder} was trained on a base whose weights hash to {trained_on[:12]}, but this base "
            f"hashes to {given[:12]}. On other weights it computes something else. Load the base it was trained on, "
            "or pass allow_other_base (on the command line --allow-other-base) if you know that the two are meant "
            "to be used together."
        )
    packing, packed = metadata.get("weights"), hashes.get("weights", "as-is")
    if metadata.get("start") == "loftq" and hashes and packing != packed and not allow_other_base:
        raise ValueError(
            f"the adapter in {folder} began with what packing the base as {packing} lost (loftq), but this base is "
            f"{packed}, which lost something else. Load it with weights={packing} (model.weights: {packing}), or pass "
            "allow_other_base if you know better."
        )


def _targets(model: nn.Module, config: Any, tensors: dict[str, Tensor], folder: Path) -> Targets:
    """The modules the config chooses, which must be those that the file holds tensors for."""
    held = {key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in tensors if ".lora_" in key}
    modules = dict(model.named_modules())
    strangers = sorted(name for name in held if name not in modules)
    if strangers:
        raise ValueError(
            f"the adapter in {folder} adapts {strangers[0]} and {len(strangers) - 1} more modules that "
            f"{type(model).__name__} does not have; it belongs to another model."
        )
    targets = find_targets(model, config, every_name_matches=False)
    for name in tied_pair(model) or ():  # PEFT's ensure_weight_tying names one half and writes both
        if name in held and name not in targets.low_rank:
            targets.low_rank.append(name)
        if targets.copies and f"{PREFIX}{name}.weight" in tensors and name not in targets.copies:
            targets.copies.append(name)
    return targets


def _fill(adapter: Adapter, tensors: dict[str, Tensor], folder: Path, lane: int = 0) -> None:
    wanted = adapter_tensors(adapter, lane)
    extra = {key for key in tensors.keys() - wanted.keys() if not _is_the_base(adapter, key, tensors[key])}
    _check_keys(set(wanted) - tensors.keys(), extra, folder)
    for key, target in wanted.items():
        _check_shape(key, tensors[key], target, folder)
        if not torch.isfinite(tensors[key]).all():
            raise ValueError(
                f"{part_of(folder, WEIGHTS)}: {key} holds NaN or infinite values; this adapter cannot be used."
            )
    for key, target in wanted.items():
        target.copy_(tensors[key])  # a view of the parameter, but for a pair with a start, which is a concatenation
    for name, layer in adapter.layers.items():
        if layer.start_A is not None:
            key_a, key_b = pair_keys(name, isinstance(layer, LoraEmbedding))
            _halve(layer, tensors[key_a], tensors[key_b], lane)


def _halve(layer: LoraLayer, down: Tensor, up: Tensor, lane: int) -> None:
    """Put a saved rank-2r pair back into the trained half and the frozen start."""
    assert layer.start_A is not None and layer.start_B is not None
    r = layer.strengths[lane].r
    layer.lora_A.data[lane, :r].copy_(down[:r])
    layer.lora_B.data[lane, :, :r].copy_(up[:, :r])
    layer.start_A[lane, :r].copy_(down[r:])
    layer.start_B[lane, :, :r].copy_(-up[:, r:])


def _is_the_base(adapter: Adapter, key: str, tensor: Tensor) -> bool:
    """PEFT may save a copy of the base's embeddings; fine if it is what this base has. Of a model without values (on
    the meta device) only the shape is compared here."""
    name = key[len(PREFIX) :].removesuffix(".weight").removesuffix(".base_layer")
    module = dict(adapter.model.named_modules()).get(name)
    base = getattr(module, "weight", None)  # of an adapted module: its base's
    if not isinstance(base, Tensor) or base.shape != tensor.shape:
        return False
    return base.is_meta or torch.equal(base.cpu(), tensor.to(base.dtype))


def _check_keys(missing: set[str], unexpected: set[str], folder: Path) -> None:
    if not missing and not unexpected:
        return
    lists = [("misses", missing), ("has unexpectedly", unexpected)]
    if biases := sorted(key for key in unexpected if key.endswith(".bias")):
        raise ValueError(trained_biases(part_of(folder, WEIGHTS), biases[0]))
    whole = any(".lora_" not in key for key in unexpected)
    told_of_base = ", or was made on a base with other embeddings" if whole else ""
    told = "; ".join(f"{verb} {len(keys)} tensors ({', '.join(sorted(keys)[:3])} ...)" for verb, keys in lists if keys)
    raise ValueError(
        f"{part_of(folder, WEIGHTS)} {told}. It does not belong to this model and {CONFIG}{told_of_base}; nothing was "
        "loaded."
    )


def trained_biases(path: Path, name: str) -> str:
    """Why a file with such tensors is refused."""
    return (
        f"{path} has trained biases ({name} ...; PEFT's bias: lora_only or all), which this version does not have. "
        "Merge the adapter into its base with PEFT (merge_and_unload), and use the merged model."
    )


def _check_shape(key: str, found: Tensor, wanted: Tensor, folder: Path) -> None:
    if found.shape != wanted.shape:
        raise ValueError(
            f"{part_of(folder, WEIGHTS)}: {key} is {tuple(found.shape)}, expected {tuple(wanted.shape)} for this model "
            "and rank; the adapter belongs to another base or its config was changed. Nothing was loaded."
        )
