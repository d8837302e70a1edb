"""Tokenizers made on the spot: a byte-level BPE, as most current models have, and one with leading-space words."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lorica.config import DataConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["the cat sat on the mat\n\nassistant user hello world " * 20, "naïve café 東京 😀👍 1234 \n\n  {}[]" * 20]


MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(
    eos: str = "<|im_end|>", bos: str | None = None, specials: tuple[str, ...] = (), words: str | None = MODERN
) -> Any:
    """A trained byte-level BPE: multi-byte characters become several tokens that share one offset.

    `words` splits text into words as Llama 3 and Qwen do; None is GPT-2's way, and offsets without the leading space.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    split = [pre_tokenizers.Split(Regex(words), "isolated")] if words else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        show_progress=False, vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=words is None)
    return _wrap(tokenizer, eos, bos, specials)


def metaspace(eos: str = "</s>", bos: str = "<s>", normalized: bool = False) -> Any:
    """A BPE in the sentencepiece manner (Llama 2): a space is part of the word after it, BOS added by the tokenizer.

    `normalized` special tokens are looked for with a space in front, so they are missed inside text.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(show_progress=False, vocab_size=200)
    trained.train_from_iterator(["the cat sat on the mat hello world"] * 20, trainer)
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", bos, eos, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {name: id for id, name in enumerate(names)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=normalized) for token in (bos, eos)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return _wrap(tokenizer, eos, bos, ())


def _wrap(tokenizer: Tokenizer, eos: str, bos: str | None, specials: tuple[str, ...]) -> Any:
    names = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.add_special_tokens({"additional_special_tokens": list(specials)})
    return fast


def data_config(path: Path | str, **options: Any) -> DataConfig:
    """The configuration's data section for one file."""
    return DataConfig(path=str(path), **options)
