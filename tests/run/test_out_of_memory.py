"""A run that runs out of memory goes on with less of it, to the same result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lorica
from lorica.run import Watcher
from lorica.training.feed import Step
from lorica.training.loop import Loop

Settings = Callable[..., dict[str, Any]]
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."


class Told(Watcher):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


FREE = {"tokens_per_microbatch": "auto", "checkpointing": "auto"}  # which the fixture sets, since plans take time


def adapter(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(ALLOCATOR)])
def test_goes_on_with_less(settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    ample = lorica.train(**settings("ample", train={"steps": 6}))
    accumulate, seen = Loop.accumulate, list[int]()

    def exhausted(loop: Loop, step: Step) -> float:
        loss = accumulate(loop, step)
        if not loop.examples:
            return loss  # a rehearsal
        seen.append(step.number)
        if seen == [0, 1, 2, 3]:
            raise error
        return loss

    monkeypatch.setattr(Loop, "accumulate", exhausted)
    watcher = Told()
    tight = lorica.train(watcher=watcher, **settings("tight", train={"steps": 6}))
    assert ample.report is not None and tight.report is not None
    assert seen == [0, 1, 2, 3, 3, 4, 5], "only the step that failed is done again"
    before, after = ample.report["plan"], tight.report["plan"]
    assert after["settings"] != before["settings"] and after["tensor_bytes"] < 0.8 * before["tensor_bytes"]
    assert any(text.startswith("out of memory (") and "same result" in text for text in watcher.notices)
    assert tight.final_loss == pytest.approx(ample.final_loss, rel=1e-5)
    found, expected = adapter(tight.run), adapter(ample.run)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_other_errors_are_not_taken_for_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Loop, "accumulate", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        lorica.train(**settings(train={"steps": 2}))


def test_a_budget_that_nothing_fits_in_is_refused(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"system.memory is 1MB, and this run does not fit: .* [MG]B"):
        lorica.train(**settings(system={"memory": "1MB"}))
    with pytest.raises(ValueError, match=r"no amount of memory; allowed: auto, or .* 24GB or 24GiB"):
        lorica.train(**settings(system={"memory": "24"}))


def test_a_budget_is_met_by_smaller_microbatches(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.planning.profile.overhead_bytes", lambda device: 10**8)  # the tests' own varies
    ample = lorica.train(**settings("ample", train={"steps": 1}, system=FREE)).report["plan"]
    assert ample["fits"] and ample["settings"]["tokens_per_microbatch"] == 1024
    budget = ample["peak_bytes"] - ample["tensor_bytes"] // 4
    tight = lorica.train(**settings("tight", train={"steps": 1}, system=FREE | {"memory": str(budget)})).report["plan"]
    assert tight["fits"] and tight["tensor_bytes"] < 0.8 * ample["tensor_bytes"]
    assert sum(tight["terms"].values()) == tight["peak_bytes"] <= budget
