"""Tokenizers rebuilt from metadata, against llama.cpp's own ids and the models' own tokenizers."""

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from bases import CHAT_TEMPLATE, byte_tokenizer
from gguf_vocabularies import byte_level, ids_of, sentencepiece
from lorica.gguf.metadata import Metadata
from lorica.gguf.tokenizer import merges_of, read_tokenizer, stop_ids
from lorica.gguf.values import Type, array, text

QWEN = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
LLAMA3 = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|eot_id|>": 128009}
VOCABULARIES: dict[str, Callable[[Path], Metadata]] = {
    "gpt-2": lambda t: byte_level(t / "gpt2/vocab.json", t / "gpt2/merges.txt", "gpt-2", {}, eos=50256),
    "qwen2": lambda t: byte_level(t / "qwen2.5/vocab.json", t / "qwen2.5/merges.txt", "qwen2", QWEN, eos=151645),
    "llama-bpe": lambda t: byte_level(
        t / "llama3.2-128k-json/encoder.json",
        t / "llama3.2-128k-json/vocab.bpe",
        "llama-bpe",
        LLAMA3,
        bos=128000,
        eos=128009,
    ),
    "llama-spm": lambda t: sentencepiece(t / "llama2-32k/tokenizer.model"),
}


def ids(tokenizer: Any, words: str) -> list[int]:
    return tokenizer(words, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_llama_cpps_own_test_vectors(shared: Path, name: str) -> None:
    tokenizer = read_tokenizer(VOCABULARIES[name](shared / "tokenizers"))
    path = shared / "golden" / "tokenizer" / f"ggml-vocab-{name}.gguf"
    texts = path.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [[int(id) for id in line.split()] for line in path.with_suffix(".gguf.out").read_text().split("\n")]
    assert len(texts) > 40
    for words, wanted in zip(texts, expected, strict=False):
        assert ids(tokenizer, words) == wanted, words


def some_text(rng: random.Random) -> str:
    """Letters of many scripts, digits, spaces, emoji, in the normal form that all tokenizers here keep."""
    ranges = [(32, 126), (0xA0, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF)]
    ranges += [(0xAC00, 0xD7A3), (0x1F300, 0x1F6FF), (0x2000, 0x206F), (0x20000, 0x20100)]
    usual = ["\n", " ", "  ", "   ", "\t", "\r\n", "'s", "'LL", "123456", "3.14", "the", "Hello", " world"]
    parts = [
        rng.choice(usual) if rng.random() < 0.3 else chr(rng.randint(*rng.choice(ranges)))
        for _ in range(rng.randint(1, 50))
    ]
    return unicodedata.normalize("NFC", "".join(parts))


def real_qwen(folder: Path) -> Any:
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return Qwen2Tokenizer(vocab=json.loads((folder / "vocab.json").read_text(encoding="utf-8")), merges=merges)


REAL: dict[str, Callable[[Path], Any]] = {
    "gpt-2": lambda t: PreTrainedTokenizerFast(tokenizer_file=str(t / "gpt2/tokenizer.json")),
    "qwen2": lambda t: real_qwen(t / "qwen2.5"),
    "llama-spm": lambda t: PreTrainedTokenizerFast(tokenizer_file=str(t / "llama2-32k/tokenizer.json")),
}


@pytest.mark.parametrize("name", REAL)
def test_the_models_own_tokenizer_gives_the_same(shared: Path, name: str) -> None:
    rebuilt, real = read_tokenizer(VOCABULARIES[name](shared / "tokenizers")), REAL[name](shared / "tokenizers")
    rng = random.Random(0)
    for words in (some_text(rng) for _ in range(300)):
        assert ids(rebuilt, words) == ids(real, words), words
        assert rebuilt.decode(ids(rebuilt, words)) == words


def tiny(kind: str = "gpt2", pre: str = "gpt-2", **ids: int) -> Metadata:
    """The 300 tokens of the tests' own byte-level tokenizer."""
    tokenizer = byte_tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    kinds = [3 if token in tokenizer.all_special_tokens else 1 for token in tokens]
    values = {
        "tokenizer.ggml.model": text(kind),
        "tokenizer.ggml.pre": text(pre),
        "tokenizer.ggml.tokens": array(Type.STRING, tokens),
        "tokenizer.ggml.token_type": array(Type.INT32, kinds),
        "tokenizer.ggml.merges": array(Type.STRING, [" ".join(pair) for pair in model["merges"]]),
        "tokenizer.chat_template": text(CHAT_TEMPLATE),
    }
    return Metadata("tiny.gguf", values | ids_of(ids))


def test_special_tokens_template_and_ends() -> None:
    original = byte_tokenizer()
    end = original.eos_token_id
    metadata = tiny(eos=end, bos=end, add_bos=1, add_eos=1)
    rebuilt = read_tokenizer(metadata)
    chat = [{"role": "user", "content": "three plus naïve 東京"}]
    assert rebuilt.chat_template == CHAT_TEMPLATE
    told = {"tokenize": True, "return_dict": False, "add_generation_prompt": True}
    assert rebuilt.apply_chat_template(chat, **told) == original.apply_chat_template(chat, **told)
    assert rebuilt("one")["input_ids"] == [end, *ids(original, "one"), end]
    assert stop_ids(metadata) == [end] and rebuilt.eos_token == "<|end|>"
    assert rebuilt.decode(ids(rebuilt, "one<|end|> two"), skip_special_tokens=True) == "one two"


@pytest.mark.parametrize(
    ("pre", "words", "pieces"),
    [
        ("gpt-2", "x 123's", ["x", " 123", "'s"]),
        ("smollm", "x 123's", ["x", " ", "1", "2", "3", "'s"]),
        ("llama-bpe", "x 1234'S", ["x", " ", "123", "4", "'S"]),
        ("qwen2", "x 12\n\n", ["x", " ", "1", "2", "\n\n"]),
        ("tekken", "camelCase", ["camel", "Case"]),
        ("gpt-4o", "it's 1234", ["it's", " ", "123", "4"]),
        ("default", "a1234.$b", ["a", "123", "4", ".$", "b"]),
    ],
)
def test_words_are_cut_as_the_file_says(pre: str, words: str, pieces: list[str]) -> None:
    backend = read_tokenizer(tiny(pre=pre)).backend_tokenizer
    spans = [span for _, span in backend.pre_tokenizer.pre_tokenize_str(words)]
    assert [words[start:stop] for start, stop in spans] == pieces


def test_a_token_that_llama_cpp_would_stop_at_but_is_text() -> None:
    """Qwen's vocabulary has an ordinary </s>: a piece of HTML, not an end."""
    values = dict(tiny(eos=3))
    tokens = [*values["tokenizer.ggml.tokens"].content, "</s>"]
    for kind, ends in ((1, [3]), (3, [3, len(tokens) - 1])):
        kinds = [1] * (len(tokens) - 1) + [kind]
        values["tokenizer.ggml.tokens"] = array(Type.STRING, [token.replace("<|end|>", "x" * 9) for token in tokens])
        values["tokenizer.ggml.token_type"] = array(Type.INT32, kinds)
        assert stop_ids(Metadata("a.gguf", values)) == ends


def test_scores_become_merges() -> None:
    tokens, scores = ["a", "b", "ab", "bb", "abb"], [0, 0, -2, -1, -3]
    assert merges_of(tokens, scores) == [("b", "b"), ("a", "b"), ("a", "bb"), ("ab", "b")]
    with pytest.raises(ValueError, match="a token of 600 letters"):
        merges_of(["a" * 600], [0])


BAD = {
    "unknown pre": ({"tokenizer.ggml.pre": text("novel")}, "cuts words in a way called novel.*model.tokenizer"),
    "no pre": ({"tokenizer.ggml.pre": text("")}, "does not say how to cut words"),
    "merge of nothing": ({"tokenizer.ggml.merges": array(Type.STRING, ["Ġ zzzz"])}, "tokens that do not exist"),
    "merge without a space": ({"tokenizer.ggml.merges": array(Type.STRING, ["ab"])}, "tokens that do not exist"),
    "tokens as numbers": ({"tokenizer.ggml.tokens": array(Type.INT32, [1])}, "where an array of text belongs"),
    "tokens that are no text": ({"tokenizer.ggml.tokens": array(Type.STRING, ["\udcff"] * 1)}, "types|no UTF-8"),
    "template that is none": ({"tokenizer.chat_template": array(Type.STRING, ["x"])}, "where text belongs"),
}


@pytest.mark.parametrize(("changes", "told"), BAD.values(), ids=BAD)
def test_one_clear_error(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_tokenizer(Metadata("a.gguf", dict(tiny()) | changes))


def test_an_end_with_every_text_but_none_named() -> None:
    with pytest.raises(ValueError, match="asks for a eos token"):
        read_tokenizer(tiny(add_eos=1))
