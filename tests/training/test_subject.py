"""What is trained, and what must stay as it was."""

import copy

import pytest
import torch
from subjects import adapted

import tiny_models
from lorica.lora import attach
from lorica.quant import codec, pack_model
from lorica.training.subject import Subject, subject_of


def flip_lowest_bit(tensor: torch.Tensor, at: int) -> None:
    words = tensor.detach().view(torch.int32).view(-1)
    words[at] ^= 1


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.base.weight", "lm_head.weight"]
)
def test_any_changed_bit_of_the_base_is_seen(name: str) -> None:
    subject = adapted()
    before = subject.frozen_checksum()
    parameter = subject.model.get_parameter(name)
    flip_lowest_bit(parameter, -1)
    assert subject.frozen_checksum() != before
    flip_lowest_bit(parameter, -1)
    assert subject.frozen_checksum() == before


def test_training_the_adapter_is_not_a_change_of_the_base() -> None:
    subject = adapted(use_dora=True)
    before = subject.frozen_checksum()
    tiny_models.randomise(subject.adapter)
    assert subject.frozen_checksum() == before


def test_full_fine_tuning_freezes_nothing_but_buffers() -> None:
    subject: Subject = subject_of(tiny_models.llama(tied=True).requires_grad_(False), None)
    before = subject.frozen_checksum()
    assert all(parameter.requires_grad for parameter in subject.parameters.values())
    assert subject.trainable_parameters() == sum(p.numel() for p in subject.model.parameters())
    with torch.no_grad():
        subject.model.model.norm.weight += 1
    assert subject.frozen_checksum() == before


def test_packed_weights_are_counted_as_what_they_stand_for() -> None:
    dense = tiny_models.llama(tie_word_embeddings=True, hidden_size=64, intermediate_size=64)
    base, packed = dense.num_parameters(), copy.deepcopy(dense)
    pack_model(packed, codec("Q8_0"))
    for model in (dense, packed):
        subject = subject_of(model, attach(model, r=3, target_modules=["q_proj"]))
        assert subject.total_parameters() == base + subject.trainable_parameters()


def test_state_and_restore() -> None:
    subject = adapted(init_lora_weights="pissa")
    state = {name: tensor.clone() for name, tensor in subject.state().items()}
    assert any(name.endswith("start_A") for name in state)
    tiny_models.randomise(subject.adapter)
    assert not all(torch.equal(tensor, state[name]) for name, tensor in subject.state().items())
    subject.restore(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in subject.state().items())
