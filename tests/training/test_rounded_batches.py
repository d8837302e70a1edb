"""On a CPU the batches of 16-bit models are rounded up: few sizes of products are compiled, nothing else changes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_models as tiny
from lorica.data.batches import Batch, microbatches
from lorica.data.examples import Example
from lorica.lora import attach
from lorica.training.engine import HeadedEngine, choose_engine


def batches(count: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(3)
    examples = []
    for number in range(count):
        tokens = torch.randint(57, (9 + 5 * number,), generator=draw).tolist()
        weights = [float(index > 3 + number and index % 3 > 0) for index in range(len(tokens))]
        examples.append(Example(str(number), tokens, weights))
    return microbatches(examples, 1) + microbatches(examples, 70)


def engine_of(dtype: torch.dtype) -> tuple[Any, HeadedEngine]:
    model = tiny.llama().to(dtype)
    adapter = tiny.randomise(attach(model, r=3, alpha=7))
    engine = choose_engine(model, adapter)
    assert isinstance(engine, HeadedEngine) and engine.body is not None
    return adapter, engine


class Sizes(TorchDispatchMode):
    """Notes how many rows each product has."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            self.rows.add(args[-2].shape[0])
        return function(*args, **(kwargs or {}))


def products(engine: HeadedEngine) -> set[int]:
    with Sizes() as sizes:
        for batch in batches(12):
            engine.loss(batch, batch.weights / batch.weights.sum()).backward()
    return sizes.rows


def test_few_sizes_of_products() -> None:
    found, plain = products(engine_of(torch.bfloat16)[1]), products(engine_of(torch.float32)[1])
    ranks = {3, 6, 9}  # of the gradients of one, two and three adapters' pairs side by side
    assert found - ranks == {32, 64, 96} and len(plain - ranks) > 15


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_losses_and_gradients_are_those_of_the_batch_as_it_is(dropout: float) -> None:
    model = tiny.llama()
    adapter = tiny.randomise(attach(model, r=3, alpha=7, lora_dropout=dropout)).eval()
    engine = choose_engine(model, adapter)
    adapter.train()
    assert isinstance(engine, HeadedEngine) and engine.multiple == 1
    for batch in batches(5):
        adapter.token_keys.keys = torch.arange(batch.input_ids.numel())
        found = []
        for sized in (engine, replace(engine, multiple=32)):
            coefficients = batch.weights / batch.weights.sum()
            loss = sized.loss(batch, coefficients)
            found.append([loss, *torch.autograd.grad(loss, list(adapter.parameters())), *sized.token_losses(batch)])
        for own, rounded in zip(*found, strict=True):
            torch.testing.assert_close(own, rounded, rtol=1e-5, atol=1e-6)


def test_dropout_in_a_layer_that_is_the_models_own() -> None:
    """Layer 1 has a part that is trained whole; what it drops follows the tokens, the filling too."""
    model = tiny.llama()
    adapter = attach(model, r=3, alpha=7, lora_dropout=0.3, target_modules=["q_proj"], modules_to_save=["1.mlp"])
    engine = choose_engine(model, tiny.randomise(adapter).eval())
    adapter.train()
    assert isinstance(engine, HeadedEngine) and engine.body is not None
    assert engine.body.description.startswith("1/2 layers lean")
    [batch] = batches(1)[:1]
    adapter.token_keys.keys = torch.arange(batch.input_ids.numel())
    coefficients = batch.weights / batch.weights.sum()
    found = [float(sized.loss(batch, coefficients)) for sized in (engine, replace(engine, multiple=32))]
    assert found[1] == pytest.approx(found[0], rel=1e-5)
