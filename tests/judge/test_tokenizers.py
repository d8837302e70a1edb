"""llama.cpp cuts text into the ids of the transformers tokenizer, from the metadata that is written."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: pip install 'lorica[judge]', or make judge")

import judges
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tiny_models as tiny
from bases import byte_tokenizer
from lorica.exporting.gguf_tokenizer import PROBES
from lorica.exporting.quantise import quantise

TEXTS = [*PROBES, "", " ", "a", "three plus four is seven, naïve café 東京 😀", "12 345 6789", "x" * 40]
REAL = ["gpt2", "llama2-32k", "qwen2.5"]


def by_name(shared: Path, name: str) -> Any:
    if name == "made":
        return byte_tokenizer()
    if name == "stories260K":
        return AutoTokenizer.from_pretrained(shared / "models" / name / "hf")
    folder = shared / "tokenizers" / name
    if not (folder / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {"gpt2": "<|endoftext|>", "llama2-32k": "</s>"}[name]
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special)


@pytest.mark.parametrize("name", ["made", "stories260K", *REAL])
def test_ids(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer = by_name(shared, name)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": len(tokenizer) + 3}
    tiny.llama(**sizes, pad_token_id=None).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    quantise(tmp_path / "base", "Q8_0", tmp_path / "base.gguf")
    judge = judges.Judge(tmp_path / "base.gguf", vocabulary_only=True)
    for text in TEXTS:
        wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = judge.tokenise(text)
        assert found == wanted, (text, tokenizer.convert_ids_to_tokens(wanted), tokenizer.convert_ids_to_tokens(found))
