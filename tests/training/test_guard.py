"""A step that is not finite: who is named, and what is left untouched."""

from pathlib import Path
from typing import Any

import pytest
import torch
from subjects import adapted, loop_of, random_examples

from lorica.data import Example
from lorica.training.guard import NonFiniteError

RARE = 60


def with_a_bad_token(dropout: float = 0.0, value: float = 3e38) -> Any:
    """A base whose embedding of one token overflows in the first norm, so that rows with it lose every number."""
    subject = adapted(dropout=dropout)
    with torch.no_grad():
        subject.model.model.embed_tokens.weight[RARE] = value
    return subject


def rows(bad: set[int]) -> list[Example]:
    """Ten rows without the rare token, but for those in `bad`."""
    clean = [Example(e.source, [token % RARE for token in e.input_ids], e.weights) for e in random_examples(10, seed=4)]
    return [
        Example(e.source, [*e.input_ids[:2], RARE, *e.input_ids[3:]], e.weights) if number in bad else e
        for number, e in enumerate(clean)
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("capacity", [1, 10_000])
def test_the_rows_are_named_and_the_step_is_not_applied(tmp_path: Path, dropout: float, capacity: int) -> None:
    subject = with_a_bad_token(dropout)
    before = {name: value.clone() for name, value in subject.state().items()}
    loop = loop_of(subject, rows({2, 7}), tmp_path, tokens_per_microbatch=capacity)
    with pytest.raises(NonFiniteError, match=r"step 1 gave a loss") as raised:
        loop.train()
    assert "The rows that cause it: rows.jsonl:" in str(raised.value)
    named = {word.rstrip(".,") for word in str(raised.value).split() if word.startswith("rows.jsonl:")}
    assert named == {"rows.jsonl:3", "rows.jsonl:8"}
    assert all(torch.equal(value, before[name]) for name, value in subject.state().items())
    [told] = loop.run.read_metrics()
    assert told["step"] == 1 and told["grad_norm"] is None and loop.run.diverged()


def test_earlier_checkpoints_stay(tmp_path: Path) -> None:
    """Batches of two in the order of the seed: the bad row comes up in some later step."""
    subject = with_a_bad_token()
    examples = rows({5})
    loop = loop_of(subject, examples, tmp_path, batch_size=2, steps=5, checkpoint_every=1, seed=1)
    with pytest.raises(NonFiniteError, match=r"rows\.jsonl:6"):
        loop.train()
    assert 0 < loop.progress.step < 5
    assert all(torch.isfinite(value).all() for value in subject.state().values())
    again = loop_of(with_a_bad_token(), examples, tmp_path, batch_size=2, steps=5, seed=1)
    again.resume()
    assert again.progress.step == loop.progress.step
    assert not again.run.diverged(), "what came after the checkpoint is to be done again"


def test_a_whole_step_gone_wrong_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="Every row of the step"):
        loop_of(with_a_bad_token(), rows(set(range(10))), tmp_path).train()


def test_a_gradient_alone_is_enough(tmp_path: Path) -> None:
    """The loss is finite, but one gradient is not."""
    subject = adapted()
    parameter = next(iter(subject.parameters.values()))
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match=r"loss \d+\.\d+, gradient norm (nan|inf)"):
        loop_of(subject, rows(set()), tmp_path).train()


@pytest.mark.parametrize("limit", [None, 1.0])
def test_with_and_without_clipping(tmp_path: Path, limit: float | None) -> None:
    with pytest.raises(NonFiniteError, match=r"rows\.jsonl:4"):
        loop_of(with_a_bad_token(), rows({3}), tmp_path, max_grad_norm=limit).train()
