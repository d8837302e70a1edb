"""AdamW against the formula written out in float64, and what a checkpoint keeps of it."""

from typing import Any

import pytest
import torch
from torch import nn

from lorica.config.schema import TrainConfig
from lorica.training.optimiser import build_optimiser, optimiser_state, restore_optimiser, set_learning_rate


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"q.lora_A": (1, 3, 7), "q.lora_B": (1, 5, 3), "q.magnitude": (1, 5)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def step(optimiser: Any, named: dict[str, nn.Parameter], number: int) -> None:
    generator = torch.Generator().manual_seed(100 + number)
    for parameter in named.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    set_learning_rate(optimiser, 1 / (1 + number))
    optimiser.step()


def test_steps_are_those_of_the_formula() -> None:
    config = TrainConfig(weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, loraplus_lr_ratio=4.0)
    named = parameters()
    values = {name: p.detach().double() for name, p in named.items()}
    optimiser = build_optimiser(named, config, lr=0.01)
    means = {name: torch.zeros_like(value) for name, value in values.items()}
    squares = {name: torch.zeros_like(value) for name, value in values.items()}
    for number in range(8):
        step(optimiser, named, number)
        for name, parameter in named.items():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            lr = 0.01 / (1 + number) * (4.0 if name.endswith("lora_B") else 1.0)
            means[name] = 0.8 * means[name] + 0.2 * gradient
            squares[name] = 0.95 * squares[name] + 0.05 * gradient**2
            mean, square = means[name] / (1 - 0.8 ** (number + 1)), squares[name] / (1 - 0.95 ** (number + 1))
            values[name] = values[name] * (1 - lr * 0.1) - lr * mean / (square.sqrt() + 1e-6)
    for name, parameter in named.items():
        torch.testing.assert_close(parameter.detach().double(), values[name], rtol=1e-5, atol=1e-6)


def test_loraplus_gives_b_its_own_rate() -> None:
    optimiser = build_optimiser(parameters(), TrainConfig(loraplus_lr_ratio=16.0), lr=1e-3)
    assert set_learning_rate(optimiser, 0.5) == pytest.approx(5e-4), "the rate that is recorded is A's"
    shapes = {group["lr"]: [tuple(p.shape) for p in group["params"]] for group in optimiser.param_groups}
    assert shapes == {5e-4: [(1, 3, 7), (1, 5)], 8e-3: [(1, 5, 3)]}


def test_state_restores_bit_for_bit() -> None:
    config = TrainConfig(weight_decay=0.01)
    named = parameters()
    optimiser = build_optimiser(named, config, lr=0.01)
    assert optimiser_state(optimiser, named) == {}
    for number in range(3):
        step(optimiser, named, number)
    other = {name: nn.Parameter(p.detach().clone()) for name, p in named.items()}
    resumed = build_optimiser(other, config, lr=0.01)
    restore_optimiser(resumed, other, {k: v.clone() for k, v in optimiser_state(optimiser, named).items()})
    for number in range(3, 6):
        step(optimiser, named, number)
        step(resumed, other, number)
    assert all(torch.equal(named[name], other[name]) for name in named)
