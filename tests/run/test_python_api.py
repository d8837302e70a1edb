"""The Python interface, as a script uses it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lorica


def logits(base: lorica.Base) -> torch.Tensor:
    with torch.no_grad():
        return base.model(input_ids=torch.tensor([[3, 1, 4, 1, 5]])).logits


def test_train_load_and_look(settings: Callable[..., dict[str, Any]], tiny_base: Path, rows: Path) -> None:
    result = lorica.train(**settings(train={"steps": 4}))
    base = lorica.load(tiny_base)
    untouched = logits(base)
    before = lorica.evaluate(base, rows, forgetting=None)

    adapter = lorica.load_adapter(base, Path(result.run) / "adapter")
    after = lorica.evaluate(base, rows, forgetting=None)
    assert before.scores is not None and after.scores is not None
    assert after.scores.loss < before.scores.loss
    with adapter.disable():
        assert torch.equal(logits(base), untouched)
    tuned = logits(base)
    assert not torch.equal(tuned, untouched)
    adapter.merge()
    torch.testing.assert_close(logits(base), tuned, rtol=1e-4, atol=1e-5)
    adapter.unmerge()
    assert torch.equal(logits(base), tuned)


def test_attach_train_by_hand_and_save(tiny_base: Path, tmp_path: Path) -> None:
    base = lorica.load(tiny_base)
    adapter = lorica.attach(base, r=2, lora_alpha=3, target_modules=["q_proj"])
    optimiser = torch.optim.SGD(adapter.parameters(), lr=0.5)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    losses = []
    for _ in range(5):
        losses.append(loss := base.model(input_ids=ids, labels=ids).loss)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    adapter.save(tmp_path / "adapter")
    tuned = logits(base)
    again = lorica.load(tiny_base)
    lorica.load_adapter(again, tmp_path / "adapter")
    assert torch.equal(logits(again), tuned)
