"""The switches of an adapter, and that the base under it is never touched."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tiny_models as tiny
from lorica.lora import Adapter, attach

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "all linear": (tiny.llama, {"target_modules": "all-linear", "dropout": 0.2}),
    "dora": (tiny.qwen2, {"target_modules": "all-linear", "use_dora": True}),
    "embedding, head, tied": (tiny.tied_llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "copies": (tiny.gemma3, {"target_modules": ["q_proj"], "modules_to_save": ["norm", "mlp"]}),
    "token rows": (tiny.gemma3, {"target_modules": ["q_proj"], "trainable_token_indices": [4, 2]}),
    "conv1d, pissa": (tiny.gpt2, {"target_modules": "all-linear", "init_lora_weights": "pissa"}),
}


def attached(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Adapter]:
    """An untouched model, and a randomised adapter on its copy."""
    make, fields = CASES[name]
    model = make().to(dtype)
    return model, tiny.randomise(attach(copy.deepcopy(model), r=3, alpha=7, **fields))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, Adapter]:
    return attached(request.param)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_switched_off_the_model_is_the_base_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    model, adapter = attached(name, dtype)
    expected = tiny.logits(model, tiny.tokens())
    on = tiny.logits(adapter.model, tiny.tokens())
    with adapter.disable():
        assert torch.equal(tiny.logits(adapter.model, tiny.tokens()), expected)
    assert not torch.equal(on, expected)
    assert on.dtype == expected.dtype


def test_switches_nest_and_survive_an_exception(case: tuple[Any, Adapter]) -> None:
    model, adapter = case
    adapter.eval()
    expected, on = tiny.logits(model, tiny.tokens()), tiny.logits(adapter.model, tiny.tokens())
    with pytest.raises(KeyError), adapter.disable():
        with adapter.disable():
            assert torch.equal(tiny.logits(adapter.model, tiny.tokens()), expected)
        assert torch.equal(tiny.logits(adapter.model, tiny.tokens()), expected)
        raise KeyError
    assert torch.equal(tiny.logits(adapter.model, tiny.tokens()), on)


def test_training_never_touches_the_base(case: tuple[Any, Adapter]) -> None:
    model, adapter = case
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for seed in range(3):
        ids = tiny.tokens(seed=seed)
        F.cross_entropy(adapter.model(input_ids=ids).logits[0, :-1], ids[0, 1:]).backward()
        trained = {id(parameter) for parameter in adapter.parameters()}
        assert all(p.grad is None for p in adapter.model.parameters() if id(p) not in trained)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
        optimiser.step()
        optimiser.zero_grad()
    detached = adapter.detach()
    assert [name for name, _ in detached.named_modules()] == [name for name, _ in model.named_modules()]
    for name, parameter in detached.named_parameters():
        assert torch.equal(parameter, before[name])


def test_parameters_are_each_listed_once_and_are_all_that_is_trained(case: tuple[Any, Adapter]) -> None:
    _, adapter = case
    listed = [id(parameter) for parameter in adapter.parameters()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in adapter.model.parameters() if parameter.requires_grad}
    assert adapter.trainable_parameters() == sum(parameter.numel() for parameter in adapter.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in adapter.parameters())


def test_the_base_stays_in_evaluation_mode() -> None:
    adapter = attach(tiny.gpt2(resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5), r=2)
    adapter.train()
    assert torch.equal(tiny.logits(adapter.model, tiny.tokens()), tiny.logits(adapter.model, tiny.tokens()))


def test_a_model_that_reads_its_linears_attributes_still_can() -> None:
    adapter = attach(tiny.llama(), r=2, modules_to_save=["lm_head"], trainable_token_indices=[3])
    model = adapter.model
    assert model.model.layers[0].self_attn.q_proj.in_features == 24
    assert model.get_input_embeddings().embedding_dim == 24
    assert model.lm_head.weight.shape == (tiny.VOCABULARY, 24)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = model.lm_head.no_such_thing


class ReadsAWeight(nn.Module):
    """Calls one of its layers, and reads the weight of the other, as fused kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Linear(5, 5)
        self.read = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.called(x), self.read.weight)


def test_an_adapted_module_that_takes_no_part_is_found_after_a_backward_pass() -> None:
    adapter = attach(ReadsAWeight(), r=2)
    adapter.model(torch.ones(1, 5)).sum().backward()
    assert adapter.without_gradient() == ["read"]


def test_detaching_a_merged_adapter_leaves_the_merged_model() -> None:
    adapter = tiny.randomise(attach(tiny.llama(), r=3, alpha=5)).eval()
    expected = tiny.logits(adapter.model, tiny.tokens())
    adapter.merge()
    model = adapter.detach()
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear
    torch.testing.assert_close(tiny.logits(model, tiny.tokens()), expected, rtol=1e-5, atol=1e-5)
    attach(model, r=3)
