"""The loop: signals, resuming, early stopping, clipping, and what it records."""

import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from subjects import adapted, gradients, loop_of, random_examples, whole_step
from torch import Tensor

from lorica.data import step_rows
from lorica.training.interrupt import Interrupted, stop_on_signal
from lorica.training.loop import Loop
from lorica.training.subject import Subject

TIMINGS = ("seconds", "tokens_per_second")


def result(loop: Loop) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The trained tensors, and the metrics but for the timings."""
    records = [{k: v for k, v in record.items() if k not in TIMINGS} for record in loop.run.read_metrics()]
    return loop.subject.state(), records


def same(left: tuple[Any, Any], right: tuple[Any, Any]) -> bool:
    return left[1] == right[1] and all(torch.equal(left[0][name], value) for name, value in right[0].items())


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"lora": {"dropout": 0.2}},
    "loraplus": {"loraplus_lr_ratio": 8.0, "weight_decay": 0.1, "schedule": "cosine"},
    "pissa": {"lora": {"init_lora_weights": "pissa"}},
    "dora": {"lora": {"use_dora": True}},
    "early stopping": {"early_stopping": 2, "evaluate_every": 1},
}


def make(folder: Path, kind: str, **options: Any) -> Loop:
    given = dict(KINDS[kind])
    subject = adapted(**given.pop("lora", {}))
    loop = loop_of(subject, random_examples(11), folder, **{"batch_size": 3, "steps": 8} | given | options)
    if "evaluate_every" in given:  # falls for three evaluations, then rises
        loop.held_out_loss = lambda: abs(loop.progress.step - 3) + float(subject.state()[LAYER].sum()) * 1e-9
    return loop


LAYER = "model.layers.1.mlp.down_proj.lora_B"


def stop_after(step: int, number: int) -> Callable[[dict[str, Any]], None]:
    """Sends this process a signal when a training step is recorded."""

    def watch(record: dict[str, Any]) -> None:
        if record["step"] == step and "loss" in record:
            os.kill(os.getpid(), number)

    return watch


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_by_a_signal_and_resumed_is_the_same_run(tmp_path: Path, kind: str) -> None:
    whole = make(tmp_path / "whole", kind)
    whole.train()
    for step, number in ((2, signal.SIGTERM), (4, signal.SIGINT)):
        stopped = make(tmp_path / "cut", kind, on_record=stop_after(step, number))
        with pytest.raises(Interrupted) as raised:
            stopped.train()
        assert (raised.value.step, raised.value.signal) == (step, number)
    resumed = make(tmp_path / "cut", kind)
    resumed.train()
    assert same(result(resumed), result(whole))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "the handlers are those of before"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    def twice(record: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    loop = make(tmp_path, "plain", on_record=twice)
    with pytest.raises(KeyboardInterrupt) as raised:
        loop.train()
    assert not isinstance(raised.value, Interrupted)
    assert not loop.run.checkpoints.exists()


def test_a_signal_after_the_last_look_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGINT


def test_stopped_at_the_last_step_and_resumed(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", "plain")
    whole.train()
    with pytest.raises(Interrupted):
        make(tmp_path / "cut", "plain", on_record=stop_after(8, signal.SIGINT)).train()
    resumed = make(tmp_path / "cut", "plain", on_record=lambda record: pytest.fail("nothing is left to train"))
    resumed.train()
    assert same(result(resumed), result(whole))


def test_outside_the_main_thread_no_signals_are_caught(tmp_path: Path) -> None:
    loop, done = make(tmp_path, "plain"), []
    thread = threading.Thread(target=lambda: done.append(loop.train().step))
    thread.start()
    thread.join()
    assert done == [8]


def test_early_stopping_restores_the_best(tmp_path: Path) -> None:
    stopped, best = make(tmp_path / "stopped", "early stopping"), make(tmp_path / "best", "plain", steps=8)
    seen: dict[int, Tensor] = {}
    best.on_record = lambda record: seen.update({int(record["step"]): best.subject.state()[LAYER].clone()})
    best.train()
    assert stopped.train().step == 5, "two evaluations without improvement after step 3"
    assert torch.equal(stopped.subject.state()[LAYER], seen[3])
    assert not torch.equal(seen[3], seen[5])


def test_a_held_out_loss_that_is_no_number_is_no_improvement(tmp_path: Path) -> None:
    loop = make(tmp_path, "plain", evaluate_every=1, early_stopping=2, steps=8)
    losses = iter([math.nan, 2.0, math.nan, 1.0, math.inf, 3.0])
    loop.held_out_loss = lambda: next(losses)
    assert loop.train().step == 6
    assert loop.progress.best_held_out_loss == 1.0
    recorded = [record["held_out_loss"] for record in loop.run.read_metrics() if "held_out_loss" in record]
    assert recorded == [None, 2.0, None, 1.0, None, 3.0]


def test_clipping_scales_the_gradient_to_its_limit(tmp_path: Path) -> None:
    subject = adapted()
    loop = loop_of(subject, random_examples(), tmp_path, max_grad_norm=0.01)
    _, whole = gradients(loop)
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in whole.values()))
    loop.accumulate(whole_step(loop))
    assert loop.optimiser.clip(0.01) == pytest.approx(expected, rel=1e-6)
    clipped = {name: p.grad for name, p in subject.parameters.items() if p.grad is not None}
    for name, gradient in clipped.items():
        torch.testing.assert_close(gradient, whole[name] * 0.01 / expected, rtol=1e-4, atol=1e-9)


def test_null_never_clips(tmp_path: Path) -> None:
    loop = loop_of(adapted(), random_examples(), tmp_path, max_grad_norm=None)
    _, whole = gradients(loop)
    loop.accumulate(whole_step(loop))
    assert loop.optimiser.clip(loop.config.max_grad_norm) == pytest.approx(
        float(torch.stack([g.norm() for g in whole.values()]).norm())
    )
    assert all(torch.equal(p.grad, whole[name]) for name, p in loop.subject.parameters.items() if p.grad is not None)


def test_what_a_step_records(tmp_path: Path) -> None:
    loop = loop_of(adapted(), random_examples(), tmp_path, steps=2, lr=0.01, warmup=0.0, batch_size=4)
    chosen = [loop.examples[row] for row in step_rows(8, 4, step=0, seed=0)]
    loss, _ = gradients(loop_of(adapted(), chosen, tmp_path / "other"))
    loop.train()
    first, second = loop.run.read_metrics()
    assert (first["step"], first["epoch"], first["lr"]) == (1, 0.5, 0.01)
    assert (second["step"], second["epoch"], second["lr"]) == (2, 1.0, 0.005)
    assert first["tokens"] + second["tokens"] == sum(len(e.input_ids) for e in loop.examples)
    assert first["loss"] == pytest.approx(loss, rel=1e-6)
    assert loop.progress.tokens == first["tokens"] + second["tokens"]


def test_evaluation_leaves_the_subject_training() -> None:
    subject: Subject = adapted(dropout=0.2)
    layer = subject.adapter.layers["model.layers.0.mlp.up_proj"] if subject.adapter else None
    assert layer is not None and layer.training
    with subject.evaluating():
        assert not layer.training
    assert layer.training and not layer.base.training


def test_adapted_modules_that_the_data_does_not_reach_are_named(tmp_path: Path) -> None:
    loop = make(tmp_path, "plain")
    told: list[str] = []
    loop.notice = told.append
    assert loop.subject.adapter is not None
    loop.subject.adapter.layers["model.layers.0.mlp.up_proj"].enabled = False
    loop.train()
    assert told == ["adapted modules that took no part in the first step: 1 (model.layers.0.mlp.up_proj)"]
