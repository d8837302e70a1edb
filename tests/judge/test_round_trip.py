"""The whole way: a base is packed, trained on as it is packed, exported, and served by llama.cpp."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: make judge")

import judges
import torch

import lorica
from lorica.demo.settings import BASE
from lorica.demo.task import write_demo_data
from lorica.evaluation.generation import generate
from lorica.exporting.quantise import quantise
from lorica.run.reopen import open_for_answers

PROMPTS, LENGTH, STEPS = 50, 40, 150


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run on a Q4_K_M of the demo's base, reopened; 50 prompts that it has not seen, and its greedy answers."""
    folder = tmp_path_factory.mktemp("round-trip")
    quantise(BASE, "Q4_K_M", folder / "base.gguf")
    rows, held_out = write_demo_data(folder / "task", 2400, PROMPTS, seed=3)
    lorica.train(
        model=str(folder / "base.gguf"),
        data=str(rows),
        out=str(folder / "run"),
        lora={"r": 16, "alpha": 32},
        train={"steps": STEPS, "batch_size": 16, "lr": 5e-3},
        evaluate={"held_out": str(held_out), "forgetting": None, "max_new_tokens": LENGTH},
        system={"threads": 1},
    )
    opened = open_for_answers(folder / "run")
    prompts = read_prompts(held_out, opened.base.tokenizer)
    stops = sorted(opened.base.stop_ids)
    answers = generate(opened.base.model, opened.base.tokenizer, prompts, LENGTH, stops)
    return {"folder": folder, "opened": opened, "prompts": prompts, "answers": answers, "stops": stops}


def read_prompts(path: Path, tokenizer: Any) -> list[list[int]]:
    import json

    texts = [json.loads(line)["prompt"] for line in path.read_text().splitlines()][:PROMPTS]
    return [tokenizer(text)["input_ids"] for text in texts]


def served(model: Path, trained: dict[str, Any], lora: Path | None = None) -> list[list[int]]:
    judge = judges.Judge(model, lora)
    return [judges.greedy(judge, ids, LENGTH, trained["stops"]) for ids in trained["prompts"]]


def same(found: list[list[int]], wanted: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(found, wanted, strict=True))


def test_the_adapter_beside_its_base(trained: dict[str, Any]) -> None:
    """Logits within what int8 activations cost, and the answers of the run."""
    folder = trained["folder"]
    assert lorica.export(folder / "run", "gguf-adapter", out=folder / "adapter").ok
    adapter = folder / "adapter" / "adapter.gguf"
    ids = trained["prompts"][0]
    with torch.no_grad():
        wanted = trained["opened"].base.model(torch.tensor([ids])).logits[0].float()
    found = judges.logits(folder / "base.gguf", ids, adapter)
    relative = float((found - wanted).norm() / wanted.norm())
    agreeing = same(served(folder / "base.gguf", trained, adapter), trained["answers"])
    print(f"adapter: logits within {relative:.4f}, {agreeing} of {PROMPTS} answers the same")
    assert relative < 0.04 and agreeing >= PROMPTS - 2


def test_the_merged_model_in_q8_0_gives_the_same_text(trained: dict[str, Any]) -> None:
    folder = trained["folder"]
    result = lorica.export(folder / "run", "gguf", type="Q8_0", out=folder / "merged")
    assert result.ok and result.proof is not None
    agreeing = same(served(folder / "merged" / "model.gguf", trained), trained["answers"])
    print(f"merged: {agreeing} of {PROMPTS} answers the same, survival {result.proof.delta_survival:.3f}")
    assert agreeing == PROMPTS
