"""What of a model decides how rows become tokens, read from its folder without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PretrainedConfig

from lorica.models.locate import model_folder, one_line

UNREADABLE = (ValueError, OSError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class ModelFacts:
    """`stop_ids` end generation; `vocabulary` is how many tokens have embeddings, `longest` how many positions there
    are; both are None where nothing says so (a folder with a tokenizer only)."""

    tokenizer: Any
    stop_ids: list[int]
    vocabulary: int | None
    longest: int | None


def read_facts(name: str, revision: str | None = None) -> ModelFacts:
    """The facts of a model directory, a hub id, or a folder with nothing but a tokenizer.

    Raises:
        ValueError: there is no such folder, or it has no tokenizer that transformers can read.
    """
    folder = model_folder(name, revision, weights=False)
    config = _config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise ValueError(f"{folder} has no tokenizer that transformers can read: {one_line(error)}") from None
    stops = _stops(folder, config)
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    text = config.get_text_config() if config is not None else None
    longest = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    return ModelFacts(tokenizer, sorted(stops), getattr(text, "vocab_size", None), longest)


def _config(folder: Path) -> PretrainedConfig | None:
    if not (folder / "config.json").is_file():
        return None
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise ValueError(f"{folder / 'config.json'}: transformers cannot read it: {one_line(error)}") from None


def _stops(folder: Path, config: PretrainedConfig | None) -> set[int]:
    """What transformers will stop on: the generation config's tokens, or where there is none, the model config's."""
    if (folder / "generation_config.json").is_file():
        try:
            settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except UNREADABLE as error:
            raise ValueError(f"{folder / 'generation_config.json'} cannot be read: {one_line(error)}") from None
    elif config is not None:
        settings = GenerationConfig.from_model_config(config)
    else:
        return set()
    ids = settings.eos_token_id
    return {id for id in (ids if isinstance(ids, list) else [ids]) if id is not None}
