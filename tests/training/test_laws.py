"""How a step is computed cannot change its result: microbatches, packing, recomputation, and what runs beside it."""

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from subjects import adapted, gradients, loop_of, random_examples, relative_difference
from torch import Tensor

from allocations import saved_bytes
from lorica.training.feed import make_step
from lorica.training.subject import subject_of

WHOLE_ROW, ONE_BY_ONE = 10_000, 1


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("lora", "tolerance"),
    # With PiSSA the pair and its start nearly cancel, which magnifies fp32's rounding.
    [({}, 1e-6), ({"use_dora": True}, 1e-6), ({"init_lora_weights": "pissa"}, 3e-6)],
    ids=["lora", "dora", "pissa"],
)
def test_microbatches_give_one_gradient(tmp_path: Path, dropout: float, lora: Any, tolerance: float) -> None:
    subject = adapted(dropout=dropout, **lora)
    results = {
        capacity: gradients(loop_of(subject, random_examples(), tmp_path, tokens_per_microbatch=capacity), step=3)
        for capacity in (WHOLE_ROW, 75, 40, ONE_BY_ONE)
    }
    whole_loss, whole = results[WHOLE_ROW]
    for loss, found in results.values():
        assert loss == pytest.approx(whole_loss, rel=1e-6)
        assert relative_difference(found, whole) < tolerance


def test_one_of_eight_is_four_of_two_is_eight_of_one(tmp_path: Path) -> None:
    """Rows of equal length, so that the capacity sets exactly how many share a microbatch."""
    subject = adapted(dropout=0.2)
    examples = [e for e in random_examples(26 * 8) if len(e.input_ids) == 12][:8]
    assert len(examples) == 8
    found = {}
    for capacity in (96, 24, 12):
        _, found[capacity] = gradients(loop_of(subject, examples, tmp_path, tokens_per_microbatch=capacity))
    assert relative_difference(found[24], found[96]) < 1e-6
    assert relative_difference(found[12], found[96]) < 1e-6


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_layers_give_the_same_gradient(
    tmp_path: Path, dropout: float, engine: Literal["auto", "plain"]
) -> None:
    kept = adapted(engine=engine, dropout=dropout)
    recomputed = adapted(True, engine, dropout=dropout)
    results = [
        gradients(loop_of(subject, random_examples(), tmp_path, tokens_per_microbatch=WHOLE_ROW))
        for subject in (kept, recomputed)
    ]
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[1][1][name], gradient) for name, gradient in results[0][1].items())
    assert saved(recomputed) < 0.5 * saved(kept)


def saved(subject: Any) -> int:
    """Bytes kept for the backward pass of a microbatch."""
    [batch] = make_step(random_examples(), list(range(8)), WHOLE_ROW, 0).batches
    subject.prepare(batch, list(range(8)), 0, 0)
    return saved_bytes(lambda: subject.engine.loss(batch, batch.weights))


def test_dropout_drops_and_differs_from_step_to_step(tmp_path: Path) -> None:
    loop = loop_of(adapted(dropout=0.3), random_examples(), tmp_path)
    plain = loop_of(adapted(), random_examples(), tmp_path)
    (first, _), (again, _), (second, _), (undropped, _) = (
        gradients(loop, 0),
        gradients(loop, 0),
        gradients(loop, 1),
        gradients(plain, 0),
    )
    assert first == again
    assert len({first, second, undropped}) == 3


def test_loss_and_gradient_against_one_row_at_a_time_in_float64(tmp_path: Path) -> None:
    subject = adapted()
    examples = random_examples(10)
    loss, found = gradients(loop_of(subject, examples, tmp_path))
    slow_loss, slow = _one_row_at_a_time(subject, examples)
    assert loss == pytest.approx(slow_loss, rel=2e-6)
    assert relative_difference(found, slow) < 5e-6


def _one_row_at_a_time(subject: Any, examples: list[Any]) -> tuple[float, dict[str, Tensor]]:
    """The definition, by transformers' own forward pass in float64: sum of weighted losses over the sum of weights."""
    model, adapter = copy.deepcopy((subject.model, subject.adapter))
    model.double()
    total = torch.zeros((), dtype=torch.float64)
    for example in examples:
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
        losses = F.cross_entropy(logits, torch.tensor(example.input_ids[1:]), reduction="none")
        total = total + (losses * torch.tensor(example.weights[1:], dtype=torch.float64)).sum()
    loss = total / sum(sum(example.weights) for example in examples)
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in adapter.named_parameters().items() if p.grad is not None}


def test_full_fine_tuning_obeys_the_same_laws(tmp_path: Path) -> None:
    import tiny_models

    subject = subject_of(tiny_models.llama(tied=True), None)
    packed_loss, packed = gradients(loop_of(subject, random_examples(), tmp_path, tokens_per_microbatch=WHOLE_ROW))
    loss, alone = gradients(loop_of(subject, random_examples(), tmp_path, tokens_per_microbatch=ONE_BY_ONE))
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert relative_difference(packed, alone) < 1e-6
    assert len(packed) == len(dict(subject.model.named_parameters())), "every weight has a gradient"


def trained(tmp_path: Path, name: str, **options: Any) -> dict[str, Tensor]:
    subject = adapted(dropout=0.1)
    loop = loop_of(subject, random_examples(11), tmp_path / name, batch_size=4, **options)
    if options.get("evaluate_every"):
        loop.held_out_loss = lambda: _measured(subject)
    loop.train()
    return {key: value.clone() for key, value in subject.state().items()}


def _measured(subject: Any) -> float:
    from lorica.evaluation.scores import score

    with subject.evaluating():
        return score(subject.model, random_examples(3, seed=9), 64, "cpu").loss


def test_what_runs_beside_training_does_not_change_it(tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain")
    others = {
        "evaluated": {"evaluate_every": 2},
        "saved often": {"checkpoint_every": 1, "keep_checkpoints": 1},
        "saved seldom": {"checkpoint_every": 5, "keep_checkpoints": 7},
    }
    for name, options in others.items():
        result = trained(tmp_path, name, **options)
        assert all(torch.equal(result[key], value) for key, value in plain.items()), name


def test_microbatch_size_does_not_change_the_trained_weights(tmp_path: Path) -> None:
    plain, cut = trained(tmp_path, "whole"), trained(tmp_path, "cut", tokens_per_microbatch=ONE_BY_ONE)
    assert relative_difference(cut, plain) < 1e-4
