"""Which engine a model gets, what is said of it, and that all give one loss."""

from typing import Any

import pytest
import torch
from subjects import adapted, random_examples

import tiny_models as tiny
from lorica.data.batches import microbatches
from lorica.lora import attach
from lorica.training.engine import PlainEngine, choose_engine
from lorica.training.subject import subject_of

SAID = {
    "llama": (tiny.llama, "2/2 layers lean"),
    "granite": (tiny.granite, "2/2 layers lean"),
    "gemma2": (tiny.gemma2, "2/2 layers lean"),
    "mixtral": (tiny.mixtral, "2/2 layers lean in half; layer 0, 1: mlp stays the model's own"),
    "gpt2": (tiny.gpt2, "the model's own layers, loss in chunks (not lean: the first layer's input is not the emb"),
}


@pytest.mark.parametrize("name", SAID)
def test_the_leanest_engine_that_gives_the_models_loss(name: str) -> None:
    make, said = SAID[name]
    model = make()
    adapter = tiny.randomise(attach(model, r=3, alpha=5))
    subject = subject_of(model, adapter)
    assert subject.engine.description.startswith(said)
    [batch] = microbatches(random_examples(5), 1000)
    found = subject.engine.loss(batch, batch.weights)
    expected = PlainEngine(model).loss(batch, batch.weights)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    losses, hits = subject.engine.token_losses(batch)
    plain_losses, plain_hits = PlainEngine(model).token_losses(batch)
    torch.testing.assert_close(losses, plain_losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(hits, plain_hits)


def test_weights_that_are_trained_themselves_stay_with_autograd() -> None:
    subject = subject_of(tiny.llama(), None)
    assert "its self_attn.q_proj is trained" in subject.engine.description
    assert "the model's own layers" in subject.engine.description


def test_a_user_may_ask_for_the_plain_path() -> None:
    assert adapted(engine="plain").engine.description == "plain path"


def test_a_lean_body_that_gives_another_loss_is_not_used(monkeypatch: Any) -> None:
    """Should recognition ever be wrong, the loss of the whole model has the last word."""
    from lorica.training import engine

    model = tiny.llama()
    adapter = attach(model, r=3).eval()
    right = engine.lean_hidden
    monkeypatch.setattr(engine, "lean_hidden", lambda *arguments: right(*arguments) * 1.1)
    chosen = choose_engine(model, adapter)
    assert chosen.description.startswith("the model's own layers, loss in chunks (2/2 layers lean: its loss differs by")
