"""What lies at a path: a model, an adapter or a run, read from headers and small files without loading a model."""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorica.adapters.folder import read_pairs
from lorica.adapters.on_base import beside_base
from lorica.adapters.pairs import Pair
from lorica.files import read_json
from lorica.gguf.inspection import inspect_gguf
from lorica.lora.checkpoint import CONFIG, WEIGHTS, read_settings, read_weights
from lorica.lora.peft_config import lora_config
from lorica.lora.targets import strength_of
from lorica.models.locate import weight_files
from lorica.models.stored import read_header
from lorica.run.source import is_not, kind_of
from lorica.training.run_folder import RunFolder


def inspect(
    path: str | Path,
    *,
    intruders: bool = False,
    base: str | Path | None = None,
    allow_other_base: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Describe what is at `path`: `kind` (run, adapter, model, gguf), then what it is made of.

    With `intruders` or `base` an adapter is laid beside its base, at `base` or where it was in training: every module
    gets a `relative_norm`, `cosines` and `intruders` (see `lorica.adapters.on_base`), and `progress` its name.

    Raises ValueError if it is none of them, or a file of it is damaged.
    """
    found = _look(Path(path))
    adapter = found.get("adapter") if found["kind"] == "run" else found
    if not intruders and base is None:
        return found
    if adapter is None or adapter["kind"] != "adapter":
        raise ValueError(
            f"{path} is no adapter in PEFT's format and no run of one, so no base belongs beside it. (Of an adapter of "
            "llama.cpp's, lorica export FILE --to peft --base MODEL makes one.)"
        )
    place = None if base is None else Path(base)
    beside = beside_base(Path(path), place, allow_other_base=allow_other_base, progress=progress)
    for module in adapter["modules"]:
        module |= beside["modules"][module["module"]]
    for layer, members in _by_layer(adapter["modules"]).items():
        adapter["layers"][layer]["intruders"] = sum(module["intruders"] for module in members)
    adapter["intruders"] = sum(module["intruders"] for module in adapter["modules"])
    adapter |= {"beside": beside["base"], "threshold": beside["threshold"]}
    return found


def _look(folder: Path) -> dict[str, Any]:
    describe = {"file": _gguf, "run": _run, "adapter": _adapter, "model": _model}.get(kind_of(folder))
    if describe is None:
        raise ValueError(
            f"{is_not(folder, 'no run, adapter or model')}; inspect takes a GGUF file, or the folder of a run, of an "
            "adapter in PEFT's format, or of a transformers model."
        )
    return describe(folder)


def _gguf(path: Path) -> dict[str, Any]:
    found, pairs = inspect_gguf(path)
    if not pairs:
        return found
    modules = [
        _described(name, Pair(pair.down.double(), pair.up.double() * pair.scale), pair.scale)
        for name, pair in pairs.items()
    ]
    return found | {"modules": modules}


def _model(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    text = config.get("text_config") or config
    files = weight_files(folder)
    tensors = [held for file in files for held in read_header(file).values()]
    return {
        "kind": "model",
        "architecture": (config.get("architectures") or [config.get("model_type")])[0],
        "parameters": sum(math.prod(shape) for _, shape in tensors),
        "tensors": len(tensors),
        "stored_as": dict(Counter(dtype for dtype, _ in tensors)),
        "bytes": sum(file.stat().st_size for file in files),
        "layers": text.get("num_hidden_layers", text.get("n_layer")),
        "hidden_size": text.get("hidden_size", text.get("n_embd")),
        "vocabulary": text.get("vocab_size"),
        "longest": text.get("max_position_embeddings", text.get("n_positions")),
        "chat_template": _has_template(folder),
    }


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings).get("chat_template"))


def _adapter(folder: Path) -> dict[str, Any]:
    values = read_settings(folder)
    config = lora_config(values, folder / CONFIG)
    provenance, tensors = read_weights(folder)
    pairs = read_pairs(tensors, config, folder)
    modules = [_described(name, pair, strength_of(name, config).scale) for name, pair in pairs.items()]
    return {
        "kind": "adapter",
        "base": values.get("base_model_name_or_path"),
        "provenance": provenance,
        "r": config.r,
        "alpha": config.alpha,
        "rslora": config.use_rslora,
        "dora": config.use_dora,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "bytes": (folder / WEIGHTS).stat().st_size,
        "layers": {
            layer: {"norm": math.hypot(*(module["norm"] for module in members))}
            for layer, members in _by_layer(modules).items()
        },
        "modules": modules,
    }


def _by_layer(modules: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Modules by the number of their layer, in order; those outside of any under "rest"."""
    found: dict[str, list[dict[str, Any]]] = {}
    for module in modules:
        number = re.search(r"\.(\d+)\.", module["module"])
        found.setdefault(number[1] if number else "rest", []).append(module)
    return dict(
        sorted(found.items(), key=lambda item: (not item[0].isdigit(), int(item[0]) if item[0].isdigit() else 0))
    )


def _described(name: str, pair: Pair, scale: float) -> dict[str, Any]:
    """Scale, size and effective rank of what a pair adds, from r-by-r products: the full matrix is never formed.

    The effective rank is the exponential of the entropy of the normalised singular values (Roy & Vetterli 2007).
    """
    singular = pair.singular_values()
    share = singular / singular.sum().clamp_min(1e-300)
    entropy = -(share * share.clamp_min(1e-300).log()).sum()
    return {
        "module": name,
        "r": pair.rank,
        "scale": scale,
        "norm": float(singular.norm()),
        "effective_rank": float(entropy.exp()) if singular.sum() > 0 else 0.0,
    }


def _run(folder: Path) -> dict[str, Any]:
    run = RunFolder(folder)
    receipt = read_json(run.receipt)
    records = run.read_metrics()
    losses = [record["loss"] for record in records if "loss" in record]
    chosen = {key: s["value"] for key, s in receipt["settings"].items() if s["origin"] != "default"}
    return {
        "kind": "run",
        "state": "finished" if run.report.is_file() else "unfinished",
        "steps": max((record["step"] for record in records), default=0),
        "last_loss": losses[-1] if losses else None,
        "base": receipt["base"],
        "rows": receipt["rows"],
        "settings": chosen,
        "machine": receipt["machine"],
        "versions": receipt["versions"],
        "adapter": _adapter(run.adapter) if (run.adapter / CONFIG).is_file() else None,
    }
