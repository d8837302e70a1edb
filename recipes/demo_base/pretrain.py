"""Pretrain the demo base: a Llama of 3M parameters, on one CPU core, within a budget of minutes.

The learning rate follows the clock (linear to zero at the end of the budget), so a slower machine gets fewer steps and
still a finished model. Windows are short at first, where attention costs less, and of full length in the last quarter.

Beside text, each step trains copy drills: a few tokens said again and again. What a model learns last from text alone,
to look back and copy, it learns early from drills that are short, use common tokens and grow longer. They have numbers
in them, of which these texts hold hardly any.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from texts import read_documents
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

CONTEXT = 512
SHORT_CONTEXT = 256
SHORT_SHARE = 0.75
TEXT_TOKENS = 2560
DRILL_TOKENS = 1536
WARMUP = 0.02
DRILL_WEIGHT = 0.4
NUMBER_EVERY = 12
NUMBER_DIGITS = 4
IGNORED = -100
LOG = "pretraining.json"


def build(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """The untrained model; what its linear layers read is a multiple of 256 wide, the block of llama.cpp's K-quants."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(documents: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """Each document as begin, tokens, end."""
    encodings = tokenizer(documents, verbose=False)["input_ids"]
    return [torch.tensor([*ids, tokenizer.eos_token_id]) for ids in encodings]


def text_batch(stream: Tensor, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(tokens, labels), each (rows, context): windows of the stream at random places."""
    context = SHORT_CONTEXT if progress < SHORT_SHARE else CONTEXT
    starts = torch.randint(len(stream) - context, (TEXT_TOKENS // context,), generator=generator)
    windows = stream[starts[:, None] + torch.arange(context + 1)]
    return windows[:, :-1], windows[:, 1:]


def drill_batch(
    stream: Tensor, space: int, digits: Tensor, progress: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(tokens, labels), each (rows, context): in each row a random phrase again and again.

    The first time, which nothing foretells, carries no loss. A phrase is tokens picked from the stream, with a number
    among them every `NUMBER_EVERY` tokens.
    """
    context = 32 if progress < 0.4 else 64 if progress < 0.7 else 128
    rows = DRILL_TOKENS // context
    periods = torch.randint(4, context // 3, (rows, 1), generator=generator)
    phrases = stream[torch.randint(len(stream), (rows, context), generator=generator)]
    numbers = digits[torch.randint(len(digits), (rows, context), generator=generator)]
    since_number = (torch.arange(context) + torch.randint(NUMBER_EVERY, (rows, 1), generator=generator)) % NUMBER_EVERY
    phrases = phrases.where(since_number > 0, space).where(
        (since_number == 0) | (since_number > NUMBER_DIGITS), numbers
    )
    places = torch.arange(context + 1).expand(rows, -1)
    windows = phrases.gather(1, places % periods)
    return windows[:, :-1], windows[:, 1:].masked_fill(places[:, 1:] < periods, IGNORED)


def mean_loss(model: LlamaForCausalLM, tokens: Tensor, labels: Tensor) -> Tensor:
    return summed_loss(model, tokens, labels) / (labels != IGNORED).sum()


def summed_loss(model: LlamaForCausalLM, tokens: Tensor, labels: Tensor) -> Tensor:
    """Summed negative log-likelihood in nats, the matrix products in bf16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=tokens, use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


@torch.no_grad()
def bits_per_byte(model: LlamaForCausalLM, documents: list[str], tokenizer: PreTrainedTokenizerBase) -> float:
    """Loss on whole documents in windows of CONTEXT tokens, per byte of UTF-8 text, in bits."""
    nats = 0.0
    for ids in encode(documents, tokenizer):
        for start in range(0, len(ids) - 1, CONTEXT):
            window = ids[start : start + CONTEXT + 1]
            nats += summed_loss(model, window[None, :-1], window[None, 1:]).item()
    return nats / math.log(2) / sum(len(document.encode()) for document in documents)


def adamw(model: LlamaForCausalLM, lr: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves embeddings and norms alone."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [model.get_input_embeddings().weight, *(p for p in model.parameters() if p.ndim == 1)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def rate(progress: float) -> float:
    """Share of the peak learning rate at `progress` (0 to 1) of the budget."""
    return min(1.0, progress / WARMUP, (1 - progress) / (1 - WARMUP))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with classic_books/ and tinystories_text/")
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer's folder; weights go there too")
    parser.add_argument("--minutes", type=float, default=62)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--go-on", action="store_true", help="start from the weights in the folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250, help="steps")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    training, held_out = read_documents(options.data)
    documents = encode(training, tokenizer)
    stream = torch.cat([documents[i] for i in torch.randperm(len(documents), generator=generator)])
    space, *digit_list = tokenizer.encode(" 0123456789", add_special_tokens=False)
    digits = torch.tensor(digit_list)
    model = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32) if options.go_on else build(tokenizer)
    optimizer = adamw(model, options.lr)

    log: list[dict[str, float]] = json.loads((options.out / LOG).read_text()) if options.go_on else []
    start, step, finished, recent = time.monotonic(), 0, False, []
    while not finished:
        progress = (time.monotonic() - start) / 60 / options.minutes
        for group in optimizer.param_groups:
            group["lr"] = options.lr * max(0.0, rate(progress))
        losses = (
            mean_loss(model, *text_batch(stream, progress, generator)),
            mean_loss(model, *drill_batch(stream, space, digits, progress, generator)),
        )
        ((1 - DRILL_WEIGHT) * losses[0] + DRILL_WEIGHT * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, finished = step + 1, progress >= 1
        recent.append([loss.item() for loss in losses])
        if step % options.save_every == 0 or finished:
            text_loss, drill_loss = torch.tensor(recent).mean(0).tolist()
            log.append(
                {
                    "step": step,
                    "text_tokens": step * TEXT_TOKENS,
                    "drill_tokens": step * DRILL_TOKENS,
                    "minutes": round((time.monotonic() - start) / 60, 2),
                    "text_loss": round(text_loss, 4),
                    "drill_loss": round(drill_loss, 4),
                    "held_out_bits_per_byte": round(bits_per_byte(model, held_out, tokenizer), 4),
                }
            )
            recent = []
            print(log[-1], flush=True)
            save(model, options.out, log)


def save(model: LlamaForCausalLM, out: Path, log: list[dict[str, float]]) -> None:
    """Write config and bf16 weights, and the log beside them; the model itself stays in fp32."""
    copy.deepcopy(model).bfloat16().save_pretrained(out)
    (out / LOG).write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
