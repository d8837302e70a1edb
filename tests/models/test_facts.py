"""What decides a row's tokens, read without weights, is what the loaded base says."""

import json
import shutil
from pathlib import Path

import pytest

from bases import write_base
from lorica.models import load
from lorica.models.facts import read_facts


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "base")


@pytest.mark.parametrize("eos", [None, 3, [3, 7]])
@pytest.mark.parametrize("settings", ["own file", "from the config", "no stop in the config"])
def test_the_same_as_of_the_loaded_base(folder: Path, eos: object, settings: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    generation = folder / "generation_config.json"
    if settings == "own file":
        generation.write_text(json.dumps({"eos_token_id": eos}))
    else:
        generation.unlink()
        config["eos_token_id"] = eos if settings == "from the config" else None
        (folder / "config.json").write_text(json.dumps(config))
    base, facts = load(folder), read_facts(str(folder))
    assert facts.stop_ids == sorted(base.stop_ids)
    assert facts.longest == base.longest == 96
    assert facts.vocabulary == base.model.get_input_embeddings().weight.shape[0]
    assert facts.tokenizer("three plus").input_ids == base.tokenizer("three plus").input_ids


def test_a_tokenizer_is_enough(folder: Path) -> None:
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / name).unlink()
    facts = read_facts(str(folder))
    assert (facts.vocabulary, facts.longest, facts.stop_ids) == (None, None, [facts.tokenizer.eos_token_id])


def test_other_names_of_the_longest(tmp_path: Path) -> None:
    from transformers import GPT2Config

    folder = write_base(tmp_path / "base")
    GPT2Config(n_positions=33, vocab_size=400).save_pretrained(folder)
    assert (read_facts(str(folder)).longest, read_facts(str(folder)).vocabulary) == (33, 400)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer.json", "{", "no tokenizer that transformers can read"),
        ("config.json", "{", "config.json is not valid JSON"),
        (
            "config.json",
            '{"model_type": "llama", "hidden_size": "wide"}',
            r"config.json: transformers .* cannot read it",
        ),
        ("generation_config.json", "{", "generation_config.json cannot be read"),
    ],
)
def test_spoilt_files_are_told(folder: Path, name: str, content: str, told: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        read_facts(str(folder))


def test_no_folder_and_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_facts(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="has no tokenizer"):
        read_facts(str(tmp_path))
    inside = write_base(tmp_path / "inside")
    with pytest.raises(ValueError, match=f"There is a model in {inside}"):
        read_facts(str(tmp_path))
