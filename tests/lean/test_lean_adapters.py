"""Every kind of adapter gives the gradients that autograd gives through the plain layers."""

from typing import Any

import pytest
import torch
from both_ways import LENGTHS, Sides, adapter_gradients, batch_of, documents_of, relative_difference, sides

import tiny_models as tiny
from allocations import Watching
from lorica.kernels.attention import attention, attention_backward
from lorica.lean import find_body
from lorica.lora import attach

ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "rank pattern": {"rank_pattern": {"q_proj": 5, "up_proj": 1}, "alpha_pattern": {"q_proj": 2}},
    "rslora": {"use_rslora": True, "r": 4},
    "dropout": {"dropout": 0.3},
    "dora": {"use_dora": True},
    "dora with dropout": {"use_dora": True, "dropout": 0.3},
    "attention only": {"target_modules": ATTENTION},
    "mlp only": {"target_modules": MLP},
    "query only": {"target_modules": ["q_proj"]},
    "up only": {"target_modules": ["up_proj"]},
    "down only": {"target_modules": ["down_proj"]},
    "output only": {"target_modules": ["o_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "first layer": {"layers_to_transform": [0]},
    "embedding": {"target_modules": ["q_proj", "down_proj", "embed_tokens"]},
    "token rows": {"target_modules": ["v_proj"], "trainable_token_indices": [3, 9]},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients_are_autograds(name: str) -> None:
    batch = batch_of()
    same_as_autograd(sides(batch=batch, **ADAPTERS[name]), batch)


@pytest.mark.parametrize("fields", [{}, {"use_dora": True}, {"dropout": 0.3}], ids=["lora", "dora", "dropout"])
@pytest.mark.parametrize("make", [tiny.phi3, tiny.qwen2, tiny.gemma2], ids=["fused", "biases", "post-norms"])
def test_kinds_of_adapters_on_kinds_of_layers(make: Any, fields: dict[str, Any]) -> None:
    batch = batch_of()
    same_as_autograd(sides(make, batch, **fields), batch)


def test_start_pairs() -> None:
    """PiSSA's pair and its start nearly cancel, which magnifies fp32's rounding."""
    same_as_autograd(sides(init_lora_weights="pissa"), batch_of(), tolerance=3e-5)


def same_as_autograd(both: Sides, batch: Any, tolerance: float = 1e-5) -> None:
    assert both.body.description == "2/2 layers lean"
    (loss, found), (expected_loss, expected) = both.lean(batch), both.plain(batch)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert relative_difference(found, expected) < tolerance


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.3}, {"use_dora": True}], ids=["lora", "dropout", "dora"])
def test_lanes(fields: dict[str, Any]) -> None:
    """Two lanes with rows of their own, against transformers' layers with the same lanes."""
    model, lanes, length = tiny.llama(), 2, 19
    adapter = tiny.randomise(attach(model, lanes=lanes, r=3, alpha=5, **fields)).eval()
    body = find_body(model, lanes)
    adapter.train()
    ids = tiny.tokens(lanes, length)
    positions = torch.cat([torch.arange(13), torch.arange(6)]).expand(lanes, -1)
    if fields.get("dropout"):
        adapter.token_keys.keys = torch.arange(lanes * length).view(lanes, length) * 7919
    documents = documents_of(batch_of((13, 6)), lanes)
    found = body.hidden(ids, positions, documents, keys=adapter.token_keys.keys).view(lanes, length, -1)
    expected = model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert relative_difference(*adapter_gradients(adapter, found, expected)) < 1e-5


def test_adapter_off_is_the_base_bitwise() -> None:
    batch = batch_of()
    both = sides(batch=batch, dropout=0.3)
    bare = find_body_of_frozen(tiny.llama())
    expected = bare.hidden(batch.input_ids, batch.position_ids, documents_of(batch))
    with both.adapter.disable(), torch.no_grad():
        found = both.body.hidden(batch.input_ids, batch.position_ids, documents_of(batch))
    assert torch.equal(found, expected)
    with torch.no_grad():
        adapted = both.body.hidden(
            batch.input_ids, batch.position_ids, documents_of(batch), keys=both.adapter.token_keys.keys
        )
    assert (adapted - expected).abs().max() > 1e-2


def find_body_of_frozen(model: Any) -> Any:
    return find_body(model.requires_grad_(False))


def test_evaluation_computes_the_same_and_keeps_nothing() -> None:
    both, batch = sides(), batch_of()
    trained = both.hidden(batch)
    with torch.no_grad():
        evaluated = both.hidden(batch)
    assert trained.requires_grad and not evaluated.requires_grad
    assert torch.equal(trained.detach(), evaluated)


def products(both: Sides) -> int:
    """Matrix products of a backward pass."""
    hidden = both.hidden(batch_of())
    with Watching() as seen:
        hidden.sum().backward()
    return sum(name.startswith(("aten.mm", "aten.addmm", "aten.bmm")) for name in seen.operations)


def test_nothing_is_computed_below_the_lowest_need() -> None:
    """Of the frozen layer's `dX`s and what the lowest adapted projections' inputs would need, none."""
    # down's A and B alone in the last layer: x A^T, dy B, dA, dB, and no product with a frozen weight.
    assert products(sides(target_modules=["down_proj"], layers_to_transform=[1])) == 4
    # In the first layer as well: through the second's seven frozen weights, and its own low-rank way back.
    second = 4 + 1 + 7 + attention_products()
    assert products(sides(target_modules=["down_proj"])) == second + 4


def attention_products() -> int:
    """Those inside attention itself, which its kernel counts or not."""
    q, k, v = (torch.randn(sum(LENGTHS), heads, 6) for heads in (4, 2, 2))
    documents = documents_of(batch_of())
    out, lse = attention(q, k, v, documents, 0.4)
    with Watching() as seen:
        attention_backward(out, q, k, v, out, lse, documents, 0.4)
    return sum(name.startswith(("aten.mm", "aten.addmm", "aten.bmm")) for name in seen.operations)
