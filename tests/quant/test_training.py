"""Training on packed weights is training on what they stand for, and everything of an adapter works on them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_models import packed_and_dense
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lorica.lora import Adapter, attach, load_adapter
from lorica.lora.merge import merge, merged_weight
from lorica.models.fingerprint import checksum
from lorica.training.head import LossHead, find_head
from lorica.training.subject import subject_of
from tiny_models import logits, randomise, tokens

LORA: dict[str, Any] = {"r": 3, "alpha": 5}


def loss_of(adapter: Adapter, lanes: int = 1) -> Tensor:
    ids = tokens(max(lanes, 2), 9)
    predicted = adapter.model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(predicted.flatten(0, 1), ids[:, 1:].flatten())


def train(adapter: Adapter, lanes: int = 1, steps: int = 20) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Losses and gradients of every step over the same rows; each lane has one of its own."""
    optimiser = torch.optim.SGD(adapter.parameters(), lr=0.1)
    losses, gradients = [], []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = loss_of(adapter, lanes)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        gradients.append({name: p.grad.clone() for name, p in adapter.named_parameters().items()})
    return losses, gradients


def assert_same_run(found: Any, expected: Any) -> None:
    assert found[0][-1] < found[0][0] - 0.1, "it learns"
    for first, second in zip(found[0], expected[0], strict=True):
        assert first == pytest.approx(second, rel=1e-5)
    for step, (first, second) in enumerate(zip(found[1], expected[1], strict=True)):
        for name, gradient in second.items():
            assert (first[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, (step, name)


@pytest.mark.parametrize(("name", "lanes"), [("Q4_K", 2), ("Q8_0", 1), ("Q3_K", 1), ("NF4_DQ", 2), ("IQ4_NL", 1)])
def test_training_on_packed_weights_is_training_on_their_values(name: str, lanes: int) -> None:
    packed, dense = packed_and_dense(name)
    before = checksum(packed.buffers())
    runs = [train(randomise(attach(model, lanes=lanes, **LORA)), lanes) for model in (packed, dense)]
    assert_same_run(*runs)
    assert checksum(packed.buffers()) == before, "frozen means frozen"


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens"], "use_dora": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 2, 60]},
    ],
    ids=str,
)
def test_every_kind_of_adapter(fields: dict[str, Any], tmp_path: Path) -> None:
    packed, dense = packed_and_dense("Q4_K")
    adapters = [randomise(attach(model, **LORA | fields)) for model in (packed, dense)]
    for one, other in zip(*(adapter.parameters() for adapter in adapters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert_same_run(*(train(adapter, steps=8) for adapter in adapters))
    trained = logits(packed, tokens())
    for name, layer in adapters[1].layers.items():
        torch.testing.assert_close(merged_weight(adapters[0].layers[name]), merged_weight(layer), rtol=1e-4, atol=1e-5)
    adapters[0].save(tmp_path)
    adapters[0].detach()
    torch.testing.assert_close(logits(load_adapter(packed, tmp_path).model, tokens()), trained)


def test_adapter_off_is_the_packed_base() -> None:
    packed, _ = packed_and_dense("Q5_K")
    ids, before = tokens(), logits(packed, tokens())
    adapter = randomise(attach(packed, **LORA))
    assert not torch.equal(logits(packed, ids), before)
    with adapter.disable():
        assert torch.equal(logits(packed, ids), before)


def test_generation_is_that_of_the_unpacked_weights() -> None:
    packed, dense = packed_and_dense("Q6_K")
    ids = tokens(2, 5)
    found, expected = (model.generate(ids, max_new_tokens=9, do_sample=False) for model in (packed, dense))
    assert torch.equal(found, expected)


def test_nothing_of_a_weight_s_size_is_kept_for_the_backward_pass() -> None:
    packed, dense = packed_and_dense("Q4_K", intermediate_size=1024)
    sizes = []
    for model in (packed, dense):
        adapter = attach(model, **LORA)
        saved: list[Tensor] = []
        with saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):  # noqa: B023
            loss_of(adapter).backward()
        sizes.append(max(tensor.numel() for tensor in saved))
    assert sizes[1] == 256 * 1024, "the frozen weight of a dense layer"
    assert sizes[0] == 2 * 9 * 1024, "an activation"


def test_recomputation_changes_nothing() -> None:
    packed, _ = packed_and_dense("Q4_K")
    adapter = randomise(attach(packed, **LORA))
    expected = torch.autograd.grad(loss_of(adapter), adapter.parameters())
    with subject_of(packed, adapter, recompute=True, engine="plain").evaluating():
        pass
    found = torch.autograd.grad(loss_of(adapter), adapter.parameters())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("target", ["all-linear", ["lm_head", "embed_tokens"]])
def test_the_loss_head_takes_a_packed_projection(tied: bool, target: Any) -> None:
    """In chunks of rows and of the vocabulary, and without a dense copy of it."""
    packed, _ = packed_and_dense("Q4_K", tie_word_embeddings=tied)
    attached = randomise(attach(packed, **LORA | {"target_modules": target}))
    head = find_head(packed)
    assert isinstance(head, LossHead)
    ids = tokens(1, 9)
    hidden = packed.model(ids).last_hidden_state[0].detach().requires_grad_()
    weights = torch.linspace(0.1, 1, 8)
    plain = (
        torch.nn.functional.cross_entropy(packed.lm_head(hidden)[:-1], ids[0, 1:], reduction="none") * weights
    ).sum()
    trained = [p for p in packed.lm_head.parameters() if p.requires_grad]
    expected = torch.autograd.grad(plain, [hidden, *trained])
    for chunk_bytes in (None, 3 * 61 * 4):
        loss = LossHead(packed.lm_head, chunk_bytes=chunk_bytes).loss(hidden[:-1], ids[0, 1:], weights)
        assert float(loss) == pytest.approx(float(plain), rel=1e-6)
        for one, other in zip(torch.autograd.grad(loss, [hidden, *trained]), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert subject_of(packed, attached).engine.description.startswith("1/1 layers lean")


def test_what_packed_weights_cannot_do_is_refused() -> None:
    packed, _ = packed_and_dense("Q4_K")
    with pytest.raises(ValueError, match="full fine-tuning cannot change it"):
        subject_of(copy.deepcopy(packed), None)
    with pytest.raises(ValueError, match=r"lm_head is packed, so lora.modules_to_save cannot train it whole"):
        attach(packed, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match=r"self_attn.q_proj is packed, so lora.modules_to_save"):
        attach(packed, target_modules=["up_proj"], modules_to_save=["self_attn"])
    adapter = randomise(attach(packed, **LORA))
    before = logits(packed, tokens())
    with pytest.raises(ValueError, match=r"q_proj is packed, and rounding the merged weight .* \(lorica export\)"):
        merge(adapter)
    assert torch.equal(logits(packed, tokens()), before)
