"""Greedy generation for a list of prompts, in batches, through transformers' own `generate`.

Greedy because an evaluation must give the same answer twice. A model's `generation_config.json` often carries sampling
settings and a repetition penalty, which transformers merges into whatever is asked; here they must not leak in, so the
model's settings are set aside for the length of the call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig

from lorica.evaluation.scores import evaluating

BATCH_TOKENS = 8_192
BATCH_ROWS = 64


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """The greedy continuation of every prompt, in the order of the prompts.

    Each is at most `max_new_tokens` long and shorter where the model's context ends; a stop token, where one was
    generated, is kept as the last id, so a continuation that does not end in one was cut off.
    """
    budgets = [_budget(model, len(prompt), max_new_tokens) for prompt in prompts]
    results: list[list[int]] = [[] for _ in prompts]
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(stop_ids), 0)
    done = 0
    with evaluating(model), own_settings_aside(model):
        for rows in _batches([len(prompt) for prompt in prompts], budgets):
            if budgets[rows[0]] > 0:
                config = GenerationConfig(
                    do_sample=False,
                    max_new_tokens=budgets[rows[0]],
                    eos_token_id=list(stop_ids) or None,
                    pad_token_id=padding,
                )
                generated = _continue(model, [prompts[row] for row in rows], config)
                for row, ids in zip(rows, generated, strict=True):
                    results[row] = _up_to_stop(ids, stop_ids)
            done += len(rows)
            if progress is not None:
                progress(done, len(prompts))
    return results


def _budget(model: Any, prompt_length: int, max_new_tokens: int) -> int:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if prompt_length == 0:
        return 0
    return max_new_tokens if context is None else max(0, min(max_new_tokens, context - prompt_length))


def _batches(lengths: list[int], budgets: list[int]) -> Iterator[list[int]]:
    """Row numbers with the same budget, of similar length (little padding), bounded in rows and in tokens."""
    order = sorted(range(len(lengths)), key=lambda row: (budgets[row], lengths[row]))
    for budget, group in groupby(order, key=lambda row: budgets[row]):
        batch: list[int] = []
        for row in group:
            tokens = (len(batch) + 1) * (lengths[row] + budget)
            if batch and (tokens > BATCH_TOKENS or len(batch) == BATCH_ROWS):
                yield batch
                batch = []
            batch.append(row)
        yield batch


def _continue(model: Any, prompts: list[Sequence[int]], config: GenerationConfig) -> list[list[int]]:
    """One left-padded batch; returns the new ids of each row, padded to the batch's longest."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), config.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    output = model.generate(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
    )
    return output[:, longest:].tolist()


def _up_to_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [position for position, token in enumerate(ids) if token in stop_ids]
    return ids[: ends[0] + 1] if ends else ids


@contextmanager
def own_settings_aside(model: Any) -> Iterator[None]:
    """Inside, the model's own generation settings (sampling, penalties) do not complete what is asked for."""
    settings = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = settings
