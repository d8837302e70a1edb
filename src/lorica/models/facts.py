"""What of a model decides how rows become tokens, read from its folder without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.gguf.read_config import read_config
from lorica.gguf.split import GgufModel, open_model
from lorica.gguf.tokenizer import stop_ids
from lorica.models import directory
from lorica.models.gguf_base import gguf_tokenizer
from lorica.models.locate import gguf_file, model_folder


@dataclass(frozen=True)
class ModelFacts:
    """`stop_ids` end generation; `vocabulary` is how many tokens have embeddings, `longest` how many positions there
    are; both are None where nothing says so (a folder with a tokenizer only)."""

    tokenizer: Any
    stop_ids: list[int]
    vocabulary: int | None
    longest: int | None


def read_facts(name: str, revision: str | None = None, tokenizer: str | None = None) -> ModelFacts:
    """The facts of a model directory, a hub id, a GGUF file, or a folder with nothing but a tokenizer. `tokenizer` is a
    directory to read the tokenizer from instead.

    Raises:
        ValueError: there is no such folder, or it has no tokenizer that transformers can read.
    """
    file = gguf_file(name, revision)
    if file is not None:
        return _gguf_facts(open_model(file), tokenizer)
    folder = model_folder(name, revision, weights=False)
    config = directory.read_config(folder) if (folder / "config.json").is_file() else None
    words = directory.read_tokenizer(Path(tokenizer) if tokenizer else folder)
    ids = directory.read_generation_config(folder, config).eos_token_id
    stops = {*(ids if isinstance(ids, list) else [ids]), words.eos_token_id} - {None}
    text = config.get_text_config() if config is not None else None
    longest = getattr(text, "max_position_embeddings", None)
    return ModelFacts(words, sorted(stops), getattr(text, "vocab_size", None), longest)


def width_and_type(name: str, revision: str | None = None) -> tuple[int, str]:
    """The hidden size of a model and transformers' name of its kind, from its config or GGUF header alone.

    Raises:
        ValueError: there is no such model, or it has no config that transformers can read.
    """
    file = gguf_file(name, revision)
    if file is not None:
        opened = open_model(file)
        config = read_config(opened.metadata, opened.tensors, opened.values)
    else:
        config = directory.read_config(model_folder(name, revision, weights=False)).get_text_config()
    return int(config.hidden_size), str(config.model_type)


def _gguf_facts(file: GgufModel, tokenizer: str | None) -> ModelFacts:
    words = gguf_tokenizer(file, tokenizer)
    ends = {*stop_ids(file.metadata), words.eos_token_id} - {None}
    config = read_config(file.metadata, file.tensors, file.values)
    return ModelFacts(words, sorted(ends), config.vocab_size, config.max_position_embeddings)
