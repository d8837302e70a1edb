"""A subject and rows of random ids for tests of the loop, and a loop that keeps its folder in a temporary place."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import tiny_models
from lorica.config.schema import TrainConfig
from lorica.data import Example
from lorica.lora import attach
from lorica.training.feed import Step, make_step
from lorica.training.loop import Loop, LoopSettings
from lorica.training.run_folder import RunFolder
from lorica.training.subject import Subject, subject_of


def adapted(recompute: bool = False, engine: Literal["auto", "plain"] = "auto", **lora: Any) -> Subject:
    """A tiny Llama with an adapter whose every value was moved away from its start."""
    model = tiny_models.llama()
    adapter = tiny_models.randomise(attach(model, **{"r": 3, "alpha": 5, **lora}))
    return subject_of(model, adapter, recompute, engine)


def random_examples(count: int = 8, seed: int = 0) -> list[Example]:
    """Rows of 5 to 30 tokens, no two alike, with fractional weights and prompts that are not trained."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for number in range(count):
        length = 5 + (number * 7) % 26
        ids = torch.randint(tiny_models.VOCABULARY, (length,), generator=generator).tolist()
        weights = (torch.rand(length, generator=generator) * 2).tolist()
        untrained = 1 + number % 3
        examples.append(Example(f"rows.jsonl:{number + 1}", ids, [0.0] * untrained + weights[untrained:]))
    return examples


def loop_of(subject: Subject, examples: list[Example], folder: Path, **options: Any) -> Loop:
    """A loop over `examples`; `options` are fields of TrainConfig, LoopSettings or Loop."""
    settings = {"steps": 6, "lr": 1e-2, "tokens_per_microbatch": 64, "evaluate_every": None, "checkpoint_every": None}
    settings |= {"keep_checkpoints": 2}
    watching: dict[str, Any] = {"held_out_loss": None, "on_record": lambda record: None, "notice": lambda text: None}
    settings |= {key: options.pop(key) for key in list(options) if key in LoopSettings.__dataclass_fields__}
    watching |= {key: options.pop(key) for key in list(options) if key in watching}
    folder.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(**{"batch_size": len(examples), **options})
    return Loop(subject, examples, config, LoopSettings(**settings), RunFolder(folder), **watching)


def whole_step(loop: Loop, number: int = 0) -> Step:
    """Step `number` over all rows, in their order."""
    rows = list(range(len(loop.examples)))
    return make_step(loop.examples, rows, loop.settings.tokens_per_microbatch, number)


def gradients(loop: Loop, step: int = 0) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step over all rows, in their order; nothing is applied."""
    loss = loop.accumulate(whole_step(loop, step))
    found = {name: p.grad.clone() for name, p in loop.subject.parameters.items() if p.grad is not None}
    loop.optimiser.zero_grad()
    return loss, found


def relative_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference of any tensor, relative to that tensor's own norm."""
    assert left.keys() == right.keys() and left
    return max(float((left[k].double() - right[k].double()).norm() / right[k].double().norm()) for k in right)
