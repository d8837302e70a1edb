"""AdamW against the formula written out in float64, and what a checkpoint keeps of it."""

import pytest
import torch
from torch import nn

from allocations import Watching
from lorica.config.schema import TrainConfig
from lorica.training.optimiser import Optimiser


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"q.lora_A": (1, 3, 7), "q.lora_B": (1, 5, 3), "q.magnitude": (1, 5)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def step(optimiser: Optimiser, named: dict[str, nn.Parameter], number: int) -> None:
    generator = torch.Generator().manual_seed(100 + number)
    optimiser.zero_grad()
    sum((p * torch.randn(p.shape, generator=generator)).sum() for p in named.values()).backward()  # type: ignore
    optimiser.set_learning_rate(1 / (1 + number))
    optimiser.step()


JOINED = pytest.mark.parametrize("joined", [True, False])


@JOINED
def test_steps_are_those_of_the_formula(joined: bool) -> None:
    config = TrainConfig(weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, loraplus_lr_ratio=4.0)
    named = parameters()
    values = {name: p.detach().double() for name, p in named.items()}
    optimiser = Optimiser.of(named, config, 0.01, joined)
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


@JOINED
def test_loraplus_gives_b_its_own_rate(joined: bool) -> None:
    optimiser = Optimiser.of(parameters(), TrainConfig(loraplus_lr_ratio=16.0), 1e-3, joined)
    assert optimiser.set_learning_rate(0.5) == pytest.approx(5e-4), "the rate that is recorded is A's"
    names = [[name for buffer in buffers for name in buffer.shapes] for _, buffers in optimiser.buffers]
    assert names == [["q.lora_A", "q.magnitude"], ["q.lora_B"]]
    assert [group["lr"] for group in optimiser.adamw.param_groups] == [5e-4, 8e-3]


@JOINED
def test_state_restores_bit_for_bit(joined: bool) -> None:
    config = TrainConfig(weight_decay=0.01)
    named = parameters()
    optimiser = Optimiser.of(named, config, 0.01, joined)
    assert optimiser.state() == {}
    for number in range(3):
        step(optimiser, named, number)
    assert {(key, tuple(value.shape)) for key, value in optimiser.state().items()} == {
        (f"{key}/{name}", tuple(p.shape) if key != "step" else ())
        for key in ("exp_avg", "exp_avg_sq", "step")
        for name, p in named.items()
    }
    other = {name: nn.Parameter(p.detach().clone()) for name, p in named.items()}
    resumed = Optimiser.of(other, config, 0.01, joined)
    resumed.restore({k: v.clone() for k, v in optimiser.state().items()})
    for number in range(3, 6):
        step(optimiser, named, number)
        step(resumed, other, number)
    assert all(torch.equal(named[name], other[name]) for name in named)


def test_joined_parameters_are_views_under_their_own_names() -> None:
    named = parameters()
    values = {name: p.detach().clone() for name, p in named.items()}
    optimiser = Optimiser.of(named, TrainConfig(), 0.01, joined=True)
    [buffer] = optimiser.all_buffers()
    for name, parameter in named.items():
        assert torch.equal(parameter, values[name])
        assert parameter.is_leaf and parameter.requires_grad
        assert parameter.untyped_storage().data_ptr() == buffer.value.untyped_storage().data_ptr()
        assert parameter.data_ptr() % 64 == buffer.value.data_ptr() % 64
    step(optimiser, named, 0)
    assert buffer.value.grad is not None
    for name, gradient in buffer.views(buffer.value.grad).items():
        assert named[name].grad is not None and named[name].grad.data_ptr() == gradient.data_ptr()
    optimiser.zero_grad()
    assert not any(p.grad.any() for p in named.values() if p.grad is not None)


def test_a_step_is_one_kernel_for_each_learning_rate() -> None:
    many = {f"{i}.lora_{part}": nn.Parameter(torch.ones(1, 3, 5)) for i in range(40) for part in "AB"}
    for ratio, kernels in ((1.0, 1), (4.0, 2)):
        optimiser = Optimiser.of(many, TrainConfig(loraplus_lr_ratio=ratio), 0.01, joined=True)
        step(optimiser, many, 0)
        with Watching() as watching:
            optimiser.clip(1.0)
            optimiser.step()
        assert sum("_fused_adamw_" in operation for operation in watching.operations) == kernels
        assert [len(group["params"]) for group in optimiser.adamw.param_groups] == [1] * kernels
