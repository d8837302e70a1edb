"""A transformers tokenizer as the metadata of a GGUF file.

Two kinds are written: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`). How llama.cpp cuts text into words is
found by what its cuts do to probe texts rather than by the tokenizer's name, and at the end the metadata is read back
as llama.cpp reads it, and has to give the same ids.
"""

import json
from typing import Any

from lorica.gguf.metadata import SPECIAL, Metadata
from lorica.gguf.pre_tokenizers import PRE_TOKENIZERS
from lorica.gguf.tokenizer import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, read_tokenizer, stop_ids
from lorica.gguf.values import Type, Value, array, count, flag, text

UNUSED, BYTE = 5, 6
PROBES = (
    "Hello world! It's 7:30, we'll see 1,234,567.89 USD (20%) & don't SHOUT.",
    "  leading spaces\n\n\ttabs and\r\nlines   \n   \n",
    "def f(x):\n    return x**2 + 3 # ok\n/* C */ <a href='x'>http://ab.cd/ef?g=1</a>",
    "naïve Café Straße ÆØÅ Ωμέγα Привет мир שלום مرحبا हिन्दी ไทย 東京タワー 中文字符 한국어",
    "😀👩‍👩‍👧 x̂ ½ ①②③ … — “quotes” ‹›",
    "CamelCaseIdentifier snake_case_name kebab-case v2.0rc1 3rd 100th aaaa bbbb",
)
REMEDY = "Use --to merged, and llama.cpp's convert_hf_to_gguf.py on what it writes."


def write_tokenizer(tokenizer: Any, vocabulary: int, stops: list[int]) -> dict[str, Value]:
    """Metadata of a tokenizer for a model with embeddings for `vocabulary` tokens, which ends at `stops`.

    Raises ValueError for a kind that llama.cpp has no form of, and where its form would give other ids.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"].get("type", "BPE") != "BPE":
        raise ValueError(f"GGUF files have no form for a tokenizer of the kind {backend['model']['type']}. {REMEDY}")
    tokens, kinds = _tokens(backend, tokenizer, vocabulary)
    byte_level = "ByteLevel" in json.dumps([backend["pre_tokenizer"], backend["decoder"]])
    own = _byte_level(backend, tokenizer) if byte_level else _sentencepiece(backend, tokens, kinds, tokenizer)
    values = own | {
        "tokenizer.ggml.tokens": array(Type.STRING, tokens),
        "tokenizer.ggml.token_type": array(Type.INT32, kinds),
    }
    values |= _special(tokenizer)
    if tokenizer.chat_template:
        values["tokenizer.chat_template"] = text(tokenizer.chat_template)
    _add_end_of_turn(values, stops)
    _check(tokenizer, values)
    return values


def _tokens(backend: dict[str, Any], tokenizer: Any, vocabulary: int) -> tuple[list[str], list[int]]:
    """Tokens and their kinds by id; ids without a token are unused, tokens without an embedding are left out."""
    tokens, kinds = [f"[PAD{id}]" for id in range(vocabulary)], [UNUSED] * vocabulary
    for token, id in backend["model"]["vocab"].items():
        if id < vocabulary:
            tokens[id], kinds[id] = token, NORMAL
    for added in backend["added_tokens"]:
        if added["id"] < vocabulary:
            tokens[added["id"]] = added["content"]
            kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id < vocabulary:
        kinds[tokenizer.unk_token_id] = UNKNOWN
    return tokens, kinds


def _byte_level(backend: dict[str, Any], tokenizer: Any) -> dict[str, Value]:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in backend["model"]["merges"]]
    ignore = bool(backend["model"].get("ignore_merges"))
    wanted = _words(tokenizer.backend_tokenizer.pre_tokenizer)
    name = next(
        (
            name
            for name, cutting in PRE_TOKENIZERS.items()
            if cutting.ignore_merges == ignore and _words(cutting.backend()) == wanted
        ),
        None,
    )
    if name is None:
        raise ValueError(f"this tokenizer cuts words in a way that llama.cpp has no name for. {REMEDY}")
    return {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(name),
        "tokenizer.ggml.merges": array(Type.STRING, merges),
    }


def _words(cutter: Any) -> list[list[str]]:
    return [[word for word, _ in cutter.pre_tokenize_str(probe)] for probe in PROBES]


def _sentencepiece(backend: dict[str, Any], tokens: list[str], kinds: list[int], tokenizer: Any) -> dict[str, Value]:
    """llama.cpp merges by the score of what comes out: the order in which the merges make it first."""
    if not backend["model"].get("byte_fallback"):
        raise ValueError(f"a BPE tokenizer that is neither byte-level nor falls back to bytes. {REMEDY}")
    rank: dict[str, int] = {}
    for merge in backend["model"]["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        rank.setdefault(left + right, len(rank))
    scores = [
        0.0 if kind != NORMAL else -float(rank.get(token, len(rank))) for token, kind in zip(tokens, kinds, strict=True)
    ]
    for id, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds[id] = BYTE
    prefix = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])[0].startswith("▁")
    return {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.scores": array(Type.FLOAT32, scores),
        "tokenizer.ggml.add_space_prefix": flag(prefix),
    }


def _special(tokenizer: Any) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for ours, theirs in SPECIAL.items():
        id = getattr(tokenizer, f"{ours}_token_id")
        if id is not None:
            found[f"tokenizer.ggml.{theirs}_token_id"] = count(id)
    ids = tokenizer("a")["input_ids"]
    for end, id in (("bos", ids[0]), ("eos", ids[-1])):
        found[f"tokenizer.ggml.add_{end}_token"] = flag(id == getattr(tokenizer, f"{end}_token_id"))
    return found


def _add_end_of_turn(values: dict[str, Value], stops: list[int]) -> None:
    """Name the model's other stop tokens, where llama.cpp does not know them by their text."""
    for key in ("eot", "eom"):
        missing = sorted(set(stops) - set(stop_ids(Metadata("this tokenizer", values))))
        if missing:
            values[f"tokenizer.ggml.{key}_token_id"] = count(missing[0])


def _check(tokenizer: Any, values: dict[str, Value]) -> None:
    again = read_tokenizer(Metadata("this tokenizer's GGUF form", values))
    for probe in PROBES:
        ids, found = (kind(probe, add_special_tokens=False)["input_ids"] for kind in (tokenizer, again))
        if ids != found:
            raise ValueError(f"llama.cpp would cut {probe[:30]!r}... into other tokens than this tokenizer. {REMEDY}")
