"""The loss of supervised tokens, for models that know our arguments and for models that do not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from subjects import random_examples
from torch import Tensor, nn

import tiny_models
from lorica.data import microbatches
from lorica.training.loss import packing_error, token_losses

ARCHITECTURES = {
    "llama": tiny_models.llama,
    "gpt2": tiny_models.gpt2,
    "qwen2": tiny_models.qwen2,
    "gemma2": tiny_models.gemma2,
    "gemma3": tiny_models.gemma3,
    "mixtral": tiny_models.mixtral,
    "qwen3_moe": tiny_models.qwen3_moe,
}


class Plain(nn.Module):
    """A model that takes token ids and nothing else, so that packed documents see each other."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> Any:
        return self.inner(input_ids=input_ids)


@pytest.mark.parametrize("make", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_losses_and_hits_of_a_packed_row(make: Any) -> None:
    model = make()
    examples = random_examples(5)
    [batch] = microbatches(examples, 10_000)
    with torch.no_grad():
        losses, correct = token_losses(model, batch)
        expected, hits = [], []
        for example in (examples[member] for member in batch.members):
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1].float()
            supervised = torch.tensor(example.weights[1:]) != 0
            labels = torch.tensor(example.input_ids[1:])
            expected.append(F.cross_entropy(logits, labels, reduction="none")[supervised])
            hits.append((logits.argmax(-1) == labels)[supervised])
    torch.testing.assert_close(losses, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert correct.tolist() == torch.cat(hits).tolist()
    assert packing_error(model) < 1e-4


def test_a_model_that_takes_token_ids_only() -> None:
    model = tiny_models.llama()
    [batch] = microbatches(random_examples(1), 100)
    with torch.no_grad():
        assert token_losses(Plain(model), batch)[0].tolist() == pytest.approx(token_losses(model, batch)[0].tolist())


def test_documents_that_see_each_other_are_found_out() -> None:
    assert packing_error(Plain(tiny_models.llama())) > 0.3


def test_losses_are_fp32_for_a_bf16_model() -> None:
    [batch] = microbatches(random_examples(3), 100)
    model = tiny_models.llama().bfloat16()
    with torch.no_grad():
        losses, _ = token_losses(model, batch)
    assert losses.dtype == torch.float32
    assert 2 < float(losses.mean()) < 8
