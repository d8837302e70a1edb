"""A tiny random base as a directory on disk, with a tokenizer trained on the spot, and rows to train it on."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = [
    "three plus four is seven, naïve café 東京 😀 " * 5,
    "zero one two three four five six seven eight nine ten " * 5,
]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def byte_tokenizer(chat: bool = True) -> Any:
    """A byte-level BPE of about 300 tokens; every text can be written with it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_base(folder: Path, seed: int = 0, chat: bool = True, **fields: Any) -> Path:
    """A Llama of two layers and its tokenizer; `fields` are those of its config."""
    tokenizer = byte_tokenizer(chat)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 96}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**sizes | heads | tokens | fields))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pack_by_bitsandbytes(folder: Path, model: Any, double: bool = True) -> Path:
    """Make of the saved `model` in `folder` what transformers saves of one that was loaded in NF4. `model` itself gets
    the weights that bitsandbytes unpacks."""
    import bitsandbytes as bnb

    tensors = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            settings = {"quant_type": "nf4", "compress_statistics": double}
            packed = bnb.nn.Params4bit(module.weight.data.clone(), requires_grad=False, **settings).to("cpu")
            if packed.quant_state is None:
                packed = packed._quantize("cpu")
            tensors[f"{name}.weight"] = packed.data
            for key, value in packed.quant_state.as_dict(packed=True).items():
                tensors[f"{name}.weight.{key}"] = value
            module.weight.data = bnb.functional.dequantize_4bit(packed.data, packed.quant_state).float()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sums(count: int = 40) -> list[dict[str, str]]:
    """Rows of different length, each once."""
    pairs = [(a, b) for a in range(10) for b in range(10)][:count]
    return [{"prompt": f"{WORDS[a]} plus {b} is", "completion": f" {WORDS[a]}{'!' * b} 東京"} for a, b in pairs]


def chats(count: int = 40) -> list[dict[str, Any]]:
    """The same as conversations."""
    return [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in sums(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
