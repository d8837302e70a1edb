"""Where a base's files lie: a directory, or the hub snapshot of an id. Nothing is loaded here."""

import re
from pathlib import Path

from lorica.files import read_json


def gguf_file(name: str, revision: str | None = None) -> Path | None:
    """The GGUF file that `name` is, or the only one in the folder that it is; None for other models.

    Raises ValueError for a file that is not there, and for a folder with several GGUF models and no other.
    """
    path = Path(name).expanduser()
    found: Path | None = None
    if path.is_dir() and not (path / "config.json").is_file():
        found = _only_gguf(path)
    elif path.suffix == ".gguf" and not path.is_file():
        raise ValueError(f"the GGUF file {name} does not exist{_neighbours(name, '*.gguf')}.")
    elif path.is_file() and (path.suffix == ".gguf" or _begins_with_gguf(path)):
        found = path
    if found is not None and revision is not None:
        raise ValueError(f"model.revision is {revision}, but {name} is a GGUF file; leave it out.")
    return found


def _begins_with_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _only_gguf(folder: Path) -> Path | None:
    """Of a model that is split over files the first."""
    later = re.compile(r".*-(?!00001)\d{5}-of-\d{5}\.gguf")
    found = sorted(
        path for path in folder.glob("*.gguf") if not later.fullmatch(path.name) and "mmproj" not in path.name.lower()
    )
    if len(found) > 1:
        raise ValueError(f"{folder} holds {len(found)} GGUF models ({_names(found)}); give the path of one.")
    return found[0] if found else None


def model_folder(name: str, revision: str | None = None, weights: bool = True) -> Path:
    """The directory itself, or the hub snapshot of an id, if need be without its weights.

    Raises ValueError for a path that is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"model.revision is {revision}, but {name} is a directory, which has one version only; leave it out."
            )
        return folder
    looks_local = folder.exists() or folder.is_absolute() or name.startswith(".") or name.count("/") != 1
    if looks_local:
        what = "is a file" if folder.is_file() else "does not exist"
        raise ValueError(
            f"the model {name} {what}; expected a directory with config.json and *.safetensors, or a hub id."
        )
    return _download(name, revision, weights)


def _download(name: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.model", "*.jinja", "*.txt", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{name} is no directory here{_neighbours(name)}, and could not be had from the hub ({one_line(error)}). "
            "Check the spelling, the network, and for gated models that you are logged in (hf auth login)."
        ) from None


def _neighbours(name: str, pattern: str = "*") -> str:
    """What lies beside a path that may have been misspelt: folders, or files of a pattern."""
    parent = Path(name).expanduser().parent
    found = sorted(path for path in parent.glob(pattern) if path.is_dir() or pattern != "*") if parent.is_dir() else []
    return f" ({parent} holds {_names(found)})" if found else ""


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5])


def one_line(error: BaseException) -> str:
    """The first line of what a library says, which is often a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model directory, of one file and shards the one file, as transformers takes them.

    Raises ValueError if there are none, or a listed shard is missing.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{index} has no weight_map that says which file holds which tensor; download it again.")
        if not all(isinstance(name, str) and name and Path(name).name == name for name in shards.values()):
            raise ValueError(f"{index}: an entry of weight_map is no name of a file beside it; download it again.")
        names = sorted(set(shards.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of its {len(names)} weight shards ({missing[0]} ...); download "
                "them again."
            )
        return [folder / name for name in names]
    pickles = sorted(file.name for file in folder.glob("*.bin")) + sorted(file.name for file in folder.glob("*.pt*"))
    if pickles:
        raise ValueError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which can run code when it is opened; Lorica reads "
            "safetensors only. Convert it where you trust it: "
            f"AutoModelForCausalLM.from_pretrained(path).save_pretrained(new_path).{model_inside(folder)}"
        )
    hint = " It is an adapter; give its base as the model." if (folder / "adapter_config.json").is_file() else ""
    raise ValueError(
        f"{folder} holds no model.safetensors, so there are no weights to train on.{hint}{model_inside(folder)}"
    )


def model_inside(folder: Path) -> str:
    """A hint, or nothing: downloads and exports are often one folder deeper."""
    found = sorted(path.parent for path in folder.glob("*/config.json"))
    return f" There is a model in {found[0]}." if found else ""
