"""A transformers tokenizer from a GGUF file's metadata, with the ids that llama.cpp gives.

Two kinds of vocabulary are read: SentencePiece's (`llama`), whose merges follow from the tokens' scores, and byte-level
BPE (`gpt2`). transformers' own conversion is not used: it takes an unknown `pre` for GPT-2's in silence, cuts numbers
wrongly for SmolLM, and leaves a space before the first word to the model class. Where llama.cpp and a model's
original tokenizer differ (Unicode normalisation, which llama.cpp has none of), llama.cpp is followed: it serves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lorica.gguf.metadata import SPECIAL, Metadata
from lorica.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
SPACE = "▁"
LONGEST = 512  # letters of a token whose parts are looked for; real ones have at most some hundred
OTHERWISE = "Give its tokenizer with model.tokenizer=DIRECTORY (tokenizer.json of the original model)."
# llama.cpp ends generation at these and takes them for control tokens, whatever type the file gives them
# fmt: off
ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
)
# fmt: on
# ordinary text in some vocabularies (Qwen's has an HTML </s>), where training on it would teach to stop in an answer
TEXT = ("</s>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<eos>")


@dataclass(frozen=True)
class Vocabulary:
    """`kinds` are the token types, one a token: normal, unknown, control, user-defined, unused, byte (1 to 6)."""

    tokens: list[str]
    kinds: list[int]

    @property
    def ids(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self.tokens)}

    def is_end(self, id: int) -> bool:
        return self.tokens[id] in ENDS and (self.kinds[id] != NORMAL or self.tokens[id] not in TEXT)


def read_tokenizer(metadata: Metadata) -> Any:
    """The tokenizer, with its special tokens and chat template.

    Raises ValueError for a file without one, or with one of a kind that is not known for certain.
    """
    kind = metadata.text("tokenizer.ggml.model", "none")
    vocabulary = _vocabulary(metadata)
    if kind == "llama":
        backend = _sentencepiece(metadata, vocabulary)
        begins, defaults = True, {"bos": 1, "eos": 2, "unknown": 0}
    elif kind == "gpt2":
        pre = _pre_tokenizer(metadata)
        backend = _byte_level(metadata, vocabulary, pre)
        begins, defaults = pre.begins, {}
    else:
        raise ValueError(
            f"{metadata.source} has a tokenizer of the kind {kind}, which Lorica cannot rebuild. {OTHERWISE}"
        )
    backend.add_tokens(_added(vocabulary))
    ids = {ours: _special(metadata, name, vocabulary, defaults) for ours, name in SPECIAL.items()}
    special = {f"{ours}_token": vocabulary.tokens[id] for ours, id in ids.items() if id is not None}
    adds = {f"add_{end}_token": _adds(metadata, end, begins and end == "bos", ids) for end in ("bos", "eos")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special, **adds)
    if "tokenizer.chat_template" in metadata:
        tokenizer.chat_template = metadata.text("tokenizer.chat_template")
    return tokenizer


def stop_ids(metadata: Metadata) -> list[int]:
    """Where llama.cpp ends generation: at the ends the file names, and at tokens with the name of one."""
    named = {id for end in ("eos", "eot", "eom") if (id := metadata.token_id(end)) is not None}
    if "tokenizer.ggml.tokens" not in metadata:
        return sorted(named)
    vocabulary = _vocabulary(metadata)
    found = {token: id for id, token in enumerate(vocabulary.tokens) if vocabulary.is_end(id)}
    if {"<|return|>", "<|call|>"} <= found.keys() or {"<|calls|>", "<|flush|>"} <= found.keys():
        found.pop("<|end|>", None)  # of a message there, not of the turn
    return sorted(named | set(found.values()))


def _vocabulary(metadata: Metadata) -> Vocabulary:
    tokens = metadata.texts("tokenizer.ggml.tokens", [])
    if not tokens:
        raise ValueError(f"{metadata.source} has no tokenizer in its metadata. {OTHERWISE}")
    tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]  # llama.cpp's name
    kinds = metadata.integers("tokenizer.ggml.token_type", [1] * len(tokens))
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        what = "as many token types as tokens" if len(kinds) != len(tokens) else "different tokens"
        raise ValueError(f"{metadata.source}: the tokenizer does not have {what}; the file is damaged. {OTHERWISE}")
    if not all(token.isascii() or _is_utf8(token) for token in tokens):
        raise ValueError(f"{metadata.source}: tokens that are no UTF-8. {OTHERWISE}")
    return Vocabulary(tokens, kinds)


def _is_utf8(token: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in token)


def _added(vocabulary: Vocabulary) -> list[AddedToken]:
    """Tokens that are found in text as a whole; llama.cpp takes the unknown token for one, too."""
    added = []
    for id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True)):
        special = kind in (CONTROL, UNKNOWN) or vocabulary.is_end(id)
        if special or kind == USER_DEFINED:
            added.append(AddedToken(token, normalized=False, special=special))
    return added


def _special(metadata: Metadata, name: str, vocabulary: Vocabulary, defaults: dict[str, int]) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    named = metadata.token_id(name)
    id = defaults.get(name) if named is None else named
    if id is None:
        return None
    if not 0 <= id < len(vocabulary.tokens):
        raise ValueError(f"{metadata.source}: {key} is {id:,}, and there are {len(vocabulary.tokens):,} tokens.")
    return id


def _adds(metadata: Metadata, end: str, default: bool, ids: dict[str, int | None]) -> bool:
    wanted = metadata.flag(f"tokenizer.ggml.add_{end}_token", default and ids[end] is not None)
    if wanted and ids[end] is None:
        raise ValueError(f"{metadata.source} asks for a {end} token with every text and names none. {OTHERWISE}")
    return wanted


def _sentencepiece(metadata: Metadata, vocabulary: Vocabulary) -> Tokenizer:
    """BPE over the whole text with spaces as ▁; what no token covers becomes bytes."""
    scores = metadata.numbers("tokenizer.ggml.scores")
    if len(scores) != len(vocabulary.tokens):
        raise ValueError(f"{metadata.source}: the tokenizer has {len(vocabulary.tokens)} tokens, {len(scores)} scores.")
    unknown = metadata.integer("tokenizer.ggml.unknown_token_id", 0)
    token = vocabulary.tokens[unknown] if 0 <= unknown < len(vocabulary.tokens) else None
    backend = Tokenizer(
        models.BPE(
            vocabulary.ids, merges_of(vocabulary.tokens, scores), unk_token=token, fuse_unk=True, byte_fallback=True
        )
    )
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    replace = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefix else replace
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return backend


def merges_of(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that scores imply: any two tokens that make a third, the best third first.

    Raises ValueError for a token too long to look through.
    """
    known = set(tokens)
    merges: list[tuple[float, int, str, str]] = []
    for id, (token, score) in enumerate(zip(tokens, scores, strict=True)):
        if len(token) > LONGEST:
            raise ValueError(f"the tokenizer has a token of {len(token):,} letters; none has more than {LONGEST}.")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                merges.append((-score, id, left, right))
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]


def _pre_tokenizer(metadata: Metadata) -> PreTokenizer:
    name = metadata.text("tokenizer.ggml.pre", "")
    if name not in PRE_TOKENIZERS:
        told = (
            f"cuts words in a way called {name}, which Lorica does not know"
            if name
            else "does not say how to cut words"
        )
        raise ValueError(
            f"the tokenizer in {metadata.source} {told}; it would give other tokens in silence. {OTHERWISE}"
        )
    return PRE_TOKENIZERS[name]


def _byte_level(metadata: Metadata, vocabulary: Vocabulary, pre: PreTokenizer) -> Tokenizer:
    ids = vocabulary.ids
    merges = []
    for merge in metadata.texts("tokenizer.ggml.merges"):
        cut = merge.find(" ", 1)
        pair = (merge[:cut], merge[cut + 1 :])
        if cut < 0 or pair[0] not in ids or pair[1] not in ids or pair[0] + pair[1] not in ids:
            raise ValueError(f"{metadata.source}: the merge {merge!r} is of tokens that do not exist. {OTHERWISE}")
        merges.append(pair)
    backend = Tokenizer(models.BPE(ids, merges, ignore_merges=pre.ignore_merges))
    backend.pre_tokenizer = pre.backend()
    backend.decoder = decoders.ByteLevel()
    missing = sorted(set(bytes_to_unicode().values()) - ids.keys())
    if len(missing) > 64:  # a few bytes never occur in UTF-8 and are left out by some
        raise ValueError(
            f"{metadata.source}: the tokenizer lacks {len(missing)} of 256 bytes; it is no byte-level one."
        )
    return backend
