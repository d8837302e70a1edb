"""Microbatches: packed documents give the losses they give alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from lorica.data import Example, microbatches


def examples(seed: int, lengths: list[int]) -> list[Example]:
    """Random documents; about a third of the tokens supervised, with fractional weights."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index, length in enumerate(lengths):
        ids = torch.randint(0, 61, (length,), generator=generator).tolist()
        weights = (torch.rand(length, generator=generator) - 0.67).clamp(min=0).tolist()
        made.append(Example(f"rows:{index}", ids, [0.0, *weights[1:]]))
    return made


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_packed_losses_are_those_of_one_by_one(model: LlamaForCausalLM) -> None:
    rows = examples(1, [9, 3, 17, 2, 30, 5, 1, 40, 11])
    packed: dict[int, list[float]] = {index: [] for index in range(len(rows))}
    for batch in microbatches(rows, 32):
        logits = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, logits_to_keep=batch.predict_at, use_cache=False
        ).logits[0]
        losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none") * batch.weights
        for owner, loss in zip(batch.owners.tolist(), losses.tolist(), strict=True):
            packed[batch.members[owner]].append(loss)
    assert sum(map(len, packed.values())) > 20
    for index, row in enumerate(rows):
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0]
        log_probabilities = logits.double().log_softmax(-1)
        alone = [
            -weight * log_probabilities[at - 1, row.input_ids[at]].item()
            for at, weight in enumerate(row.weights)
            if weight
        ]
        assert packed[index] == pytest.approx(alone, abs=1e-5)


@settings(max_examples=40)
@given(st.integers(0, 99), st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 24))
def test_a_batch_holds_whole_documents(seed: int, lengths: list[int], capacity: int) -> None:
    rows = examples(seed, lengths)
    batches = microbatches(rows, capacity)
    assert sorted(member for batch in batches for member in batch.members) == list(range(len(rows)))
    for batch in batches:
        documents = [rows[member] for member in batch.members]
        assert batch.input_ids[0].tolist() == [token for d in documents for token in d.input_ids]
        assert batch.position_ids[0].tolist() == [i for d in documents for i in range(len(d.input_ids))]
        supervised = [
            (owner, token, pytest.approx(weight))
            for owner, d in enumerate(documents)
            for token, weight in zip(d.input_ids, d.weights, strict=True)
            if weight
        ]
        assert (
            list(zip(batch.owners.tolist(), batch.labels.tolist(), batch.weights.tolist(), strict=True)) == supervised
        )
        assert (batch.position_ids[0, batch.predict_at + 1] > 0).all()
        assert batch.labels.tolist() == batch.input_ids[0, batch.predict_at + 1].tolist()


def test_types_and_moving() -> None:
    batch = microbatches(examples(0, [4, 6]), 16)[0]
    assert (batch.input_ids.dtype, batch.weights.dtype, batch.owners.dtype) == (torch.int64, torch.float32, torch.int64)
    moved = batch.to("meta")
    assert moved.labels.device.type == "meta" and moved.members == batch.members


def test_a_document_without_supervision_packs_to_empty_labels() -> None:
    batch = microbatches([Example("rows:0", [5], [0.0])], 8)[0]
    assert batch.labels.shape == batch.predict_at.shape == (0,)
