"""Greedy generation against a plain loop, against recorded outputs of real models, and in batches."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import random_rows, tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lorica.evaluation.generation import generate

PROMPTS = [row.input_ids for row in random_rows([3, 17, 1, 8, 8, 29, 12])]


def _slow_greedy(model: Any, prompt: list[int], budget: int, stop_ids: list[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(budget):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt) :]


def _common_stops(model: Any) -> list[int]:
    """Ids that the random model really generates, so that some rows end early and others do not."""
    written = [token for prompt in PROMPTS for token in _slow_greedy(model, prompt, 12, [])]
    return sorted({written[5], written[30]})


@pytest.mark.parametrize("with_stops", [False, True])
def test_a_batch_is_each_prompt_alone_and_a_plain_loop(model: Any, tokenizer: Any, with_stops: bool) -> None:
    stops = _common_stops(model) if with_stops else []
    expected = [_slow_greedy(model, prompt, 12, stops) for prompt in PROMPTS]
    assert generate(model, tokenizer, PROMPTS, 12, stops) == expected
    assert [generate(model, tokenizer, [prompt], 12, stops)[0] for prompt in PROMPTS] == expected
    assert len({len(ids) for ids in expected}) > 1 or not with_stops


def test_sampling_settings_of_the_model_do_not_leak_in(tokenizer: Any) -> None:
    model = tiny_llama().eval()
    expected = [_slow_greedy(model, prompt, 12, []) for prompt in PROMPTS]
    own = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=3, repetition_penalty=1.9, no_repeat_ngram_size=1, max_length=20
    )
    model.generation_config = own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate(model, tokenizer, PROMPTS, 12, []) == expected
    assert model.generation_config is own


def test_stops_where_the_context_ends(tokenizer: Any) -> None:
    model = tiny_llama(context=32).eval()
    generated = generate(model, tokenizer, [*PROMPTS, PROMPTS[1] * 2], 12, [])
    assert [len(ids) for ids in generated] == [12, 12, 12, 12, 12, 3, 12, 0]
    assert generated[5] == _slow_greedy(model, PROMPTS[5], 3, [])


def test_nothing_to_generate(model: Any, tokenizer: Any) -> None:
    assert generate(model, tokenizer, [], 12, [2]) == []
    assert generate(model, tokenizer, [[], [5]], 2, [])[0] == []


@pytest.mark.parametrize("name", ["stories260K", "babyllama-1M-tok361"])
def test_recorded_greedy_outputs_of_real_models(shared: Path, name: str) -> None:
    golden = json.loads((shared / "golden" / "greedy.json").read_text(encoding="utf-8"))[name]
    folder = shared / "models" / name / "hf"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt, new = golden["prompt_ids"], golden["greedy_ids"][len(golden["prompt_ids"]) :]
    shorter = generate(model, tokenizer, [prompt, prompt[:3], prompt], len(new), [2])
    assert shorter[0] == shorter[2] == new
    assert shorter[1] != new
