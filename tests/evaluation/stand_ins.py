"""A tiny random model, a character tokenizer and rows made of numbers, for tests of the evaluation."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorica.data.examples import Example


def tiny_llama(vocabulary: int = 67, context: int = 64) -> Any:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=context,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def character_tokenizer() -> Any:
    """One token a character of printable ASCII, 0 to 2 are special; no padding token, as with Llama."""
    characters = [chr(code) for code in range(32, 96)]
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


def random_rows(lengths: list[int], vocabulary: int = 67, seed: int = 5) -> list[Example]:
    """Rows of random ids; the first third is the prompt, and every fourth completion token weighs a half."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, length in enumerate(lengths):
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        start = max(1, length // 3)
        weights = [0.0] * start + [0.5 if position % 4 == 0 else 1.0 for position in range(start, length)]
        rows.append(Example(f"rows.jsonl:{number + 1}", ids, weights, start))
    return rows


def row_of_text(tokenizer: Any, prompt: str, completion: str, source: str = "rows.jsonl:1") -> Example:
    """Start token, prompt, completion and stop token; only the last two are supervised."""
    given = [1, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    answer = [*tokenizer(completion, add_special_tokens=False)["input_ids"], 2]
    return Example(source, given + answer, [0.0] * len(given) + [1.0] * len(answer), len(given))
