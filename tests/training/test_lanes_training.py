"""Lanes trained together, against the loop that trains each alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from subjects import loop_of, random_examples

import tiny_models as tiny
from lorica.config import LoraConfig
from lorica.config.schema import TrainConfig
from lorica.data import Example
from lorica.lora import Lane, attach
from lorica.quant import codec, pack_model
from lorica.training.engine import HeadedEngine, PlainEngine
from lorica.training.lanes import LaneLoop, LaneRun
from lorica.training.loop import Loop
from lorica.training.subject import Subject, subject_of

STEPS, CAPACITY = 8, 70
TRAIN: list[dict[str, Any]] = [
    {"seed": 3, "batch_size": 5, "max_grad_norm": 0.05},
    {"seed": 4, "batch_size": 5, "weight_decay": 0.1, "loraplus_lr_ratio": 4.0},
    {"seed": 3, "batch_size": 5, "schedule": "cosine", "warmup": 3.0, "betas": (0.8, 0.9)},
]
RATES = [1e-2, 3e-3, 5e-3]
LORA: list[dict[str, Any]] = [{"r": 3, "alpha": 7}, {"r": 5, "alpha": 4}, {"r": 2, "alpha": 7, "use_rslora": True}]


def configs(**lora: Any) -> list[LoraConfig]:
    return [LoraConfig(**{"target_modules": "all-linear", **own, **lora}) for own in LORA]


def together(
    make: Any = tiny.llama, engine: Any = "auto", rows: list[list[Example]] | None = None, **lora: Any
) -> tuple[LaneLoop, Subject]:
    model = make()
    lanes = [Lane(config, train["seed"]) for config, train in zip(configs(**lora), TRAIN, strict=True)]
    subject = subject_of(model, attach(model, lanes=lanes), engine=engine)
    rows = rows or [random_examples(12)] * len(lanes)
    runs = [
        LaneRun(f"lane {number}", rows[number], TrainConfig(**TRAIN[number]), RATES[number], STEPS)
        for number in range(len(lanes))
    ]
    return LaneLoop(subject, runs, CAPACITY), subject


def alone(number: int, folder: Path, make: Any = tiny.llama, rows: list[Example] | None = None, **lora: Any) -> Loop:
    model = make()
    adapter = attach(model, configs(**lora)[number], seed=TRAIN[number]["seed"])
    subject = subject_of(model, adapter)
    options = {**TRAIN[number], "lr": RATES[number], "steps": STEPS, "tokens_per_microbatch": CAPACITY}
    return loop_of(subject, rows or random_examples(12), folder / str(number), **options)


@pytest.mark.parametrize(
    ("lora", "tolerance"),
    # With OLoRA the pair and its start nearly cancel, which magnifies fp32's rounding.
    [({}, 1e-5), ({"dropout": 0.3}, 1e-5), ({"use_dora": True}, 1e-5), ({"init_lora_weights": "olora"}, 3e-5)],
    ids=["lora", "dropout", "dora", "olora"],
)
def test_each_lane_is_its_lone_run(lora: dict[str, Any], tolerance: float, tmp_path: Path) -> None:
    """Other ranks, scales, rates, seeds, schedules, clipping and rows; the same weights and losses."""
    rows = [random_examples(12, seed=5), random_examples(9, seed=6), random_examples(14, seed=7)]
    loop, _ = together(rows=rows, **lora)
    loop.train(STEPS)
    for number, run in enumerate(loop.runs):
        lone = alone(number, tmp_path, rows=rows[number], **lora)
        lone.train()
        expected = [record["loss"] for record in lone.run.read_metrics()]
        assert [record["loss"] for record in run.records] == pytest.approx(expected, rel=1e-5)
        assert [record["lr"] for record in run.records] == [record["lr"] for record in lone.run.read_metrics()]
        found = loop.state(number)
        for name, tensor in lone.subject.state().items():
            difference = (found[f"trained/{name}"] - tensor).norm() / tensor.norm().clamp_min(1e-3)
            assert difference < tolerance, name


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen2, tiny.gemma2, tiny.mixtral])
def test_on_lean_layers_and_on_the_models_own(make: Any, tmp_path: Path) -> None:
    attention = {"target_modules": ["q_proj", "v_proj"]}
    loop, subject = together(make, **attention)
    assert isinstance(subject.engine, HeadedEngine)
    loop.train(3)
    for number, run in enumerate(loop.runs):
        lone = alone(number, tmp_path, make, **attention)
        for _ in range(3):
            lone.step()
        expected = [record["loss"] for record in lone.run.read_metrics()]
        assert [record["loss"] for record in run.records] == pytest.approx(expected, rel=2e-5)


def packed_llama() -> Any:
    model = tiny.llama(hidden_size=64, intermediate_size=96)
    pack_model(model, codec("Q8_0"))
    return model


def test_on_a_packed_base(tmp_path: Path) -> None:
    loop, subject = together(packed_llama)
    assert isinstance(subject.engine, HeadedEngine) and "2/2 layers lean" in subject.engine.description
    loop.train(3)
    for number, run in enumerate(loop.runs):
        lone = alone(number, tmp_path, packed_llama)
        for _ in range(3):
            lone.step()
        expected = [record["loss"] for record in lone.run.read_metrics()]
        assert [record["loss"] for record in run.records] == pytest.approx(expected, rel=1e-5)


def test_a_lane_goes_on_alone_and_back(tmp_path: Path) -> None:
    """A lane's state is that of a lone run's checkpoint, both ways, at the lane's own rank."""
    loop, _ = together()
    loop.train(4)
    lone = alone(1, tmp_path)
    parts: dict[str, dict[str, torch.Tensor]] = {"trained": {}, "optimiser": {}}
    for key, tensor in loop.state(1).items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    lone.subject.restore(parts["trained"])
    lone.optimiser.restore(parts["optimiser"])
    lone.progress.step = 4
    other, _ = together()
    for number in range(3):
        other.restore(number, loop.state(number))
        other.runs[number].progress.step = 4
    for run in (loop, other):
        run.train(STEPS)
    while lone.progress.step < STEPS:
        lone.step()
    for number in range(3):
        assert all(torch.equal(tensor, loop.state(number)[name]) for name, tensor in other.state(number).items())
    for name, tensor in lone.subject.state().items():
        torch.testing.assert_close(tensor, loop.state(1)[f"trained/{name}"], rtol=1e-5, atol=1e-6)


def test_a_lane_that_diverges_stops_and_the_others_do_not_notice(tmp_path: Path) -> None:
    loop, subject = together()
    loop.train(2)
    adapter = subject.adapter
    assert adapter is not None
    with torch.no_grad():
        next(iter(adapter.layers.values())).lora_B[1] = float("inf")
    loop.train(STEPS)
    failed = loop.runs[1]
    assert failed.failed is not None and "step 3" in failed.failed and failed.progress.step == 2
    for number in (0, 2):
        lone = alone(number, tmp_path)
        lone.train()
        assert loop.runs[number].failed is None
        expected = [record["loss"] for record in lone.run.read_metrics()]
        assert [record["loss"] for record in loop.runs[number].records] == pytest.approx(expected, rel=1e-5)


def test_an_adapted_head_takes_the_plain_path(tmp_path: Path) -> None:
    loop, subject = together(target_modules=["q_proj", "lm_head"])
    assert isinstance(subject.engine, PlainEngine) and "lanes share" in subject.engine.description
    loop.train(3)
    for number, run in enumerate(loop.runs):
        lone = alone(number, tmp_path, target_modules=["q_proj", "lm_head"])
        for _ in range(3):
            lone.step()
        expected = [record["loss"] for record in lone.run.read_metrics()]
        assert [record["loss"] for record in run.records] == pytest.approx(expected, rel=1e-5)
