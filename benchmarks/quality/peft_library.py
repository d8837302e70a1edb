"""The PEFT library and a plain loop, on the rows, in the order and with the schedule of a run of Lorica's."""

from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

import lorica
from lorica.config.schema import DataConfig
from lorica.data.examples import Example
from lorica.data.order import step_rows
from lorica.data.read import read_examples
from lorica.evaluation.evaluation import Evaluation
from lorica.training.schedule import learning_rate_factor, warmup_steps


def train(base: Path, rows: Path, held_out: Path, out: Path, lr: float, seed: int, batch_size: int) -> Evaluation:
    """Rank 16, alpha 32 on all linear layers, one epoch, AdamW, clipped to 1; measured by Lorica on the held-out rows,
    from the files that PEFT wrote."""
    loaded = lorica.load(base, dtype="fp32")
    examples = read_examples(
        DataConfig(path=str(rows)), loaded.tokenizer, loaded.longest, sorted(loaded.stop_ids)
    ).examples
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr, weight_decay=0.0)
    steps = -(-len(examples) // batch_size)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * learning_rate_factor(step, steps, "linear", warmup_steps(steps, 0.03))
        chosen = [examples[row] for row in step_rows(len(examples), batch_size, step, seed)]
        optimiser.zero_grad()
        mean_loss(model, chosen).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    model.save_pretrained(out)
    lorica.load_adapter(loaded, out)
    return lorica.evaluate(loaded, str(held_out), samples=0)


def mean_loss(model: Any, examples: list[Example]) -> torch.Tensor:
    """Over the supervised tokens of all rows."""
    longest = max(len(example.input_ids) for example in examples)
    ids = torch.tensor([example.input_ids + [0] * (longest - len(example.input_ids)) for example in examples])
    weights = torch.tensor([list(example.weights) + [0.0] * (longest - len(example.weights)) for example in examples])
    mask = torch.tensor([[position < len(e.input_ids) for position in range(longest)] for e in examples]).long()
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (losses * wanted).sum() / wanted.sum()
