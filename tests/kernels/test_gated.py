"""Gated activations against transformers' functions and against finite differences."""

import pytest
import torch
from chained import Gated
from torch import Tensor
from torch.autograd import gradcheck
from transformers.activations import ACT2FN

from lorica.kernels import ACTIVATIONS, gated, gated_backward


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_the_finite_differences(activation: str, overwrite: bool) -> None:
    gate, up = draw(3, 7).double().requires_grad_(), draw(7, 3).t().double().requires_grad_()
    assert gradcheck(Gated.apply, (gate, up, activation, overwrite))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_gradients_are_those_of_transformers(activation: str) -> None:
    gate, up, d_product = (4 * draw(*shape) for shape in ((5, 33), (33, 5), (5, 3, 11)))
    gate, up, d_product = gate.requires_grad_(), up.t().requires_grad_(), d_product.flatten(1)
    up.retain_grad()
    expected = ACT2FN[activation](gate) * up
    expected.backward(d_product)
    assert torch.equal(gated(gate.detach(), up.detach(), activation), expected.detach())
    _, d_gate, d_up = gated_backward(d_product, gate.detach(), up.detach(), activation)
    torch.testing.assert_close(d_gate, gate.grad, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(d_up, up.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sixteen_bits_are_rounded_as_transformers_rounds_them(activation: str, dtype: torch.dtype) -> None:
    gate, up, d_product = (draw(4, 25).roll(shift).to(dtype) for shift in (0, 3, 7))
    gate, up = gate.requires_grad_(), up.requires_grad_()
    expected = ACT2FN[activation](gate) * up
    expected.backward(d_product)
    assert torch.equal(gated(gate.detach(), up.detach(), activation), expected)
    product, d_gate, d_up = gated_backward(d_product, gate.detach(), up.detach(), activation)
    assert torch.equal(product, expected)
    assert torch.equal(d_up, up.grad)
    wide = (d_product.double(), gate.detach().double(), up.detach().double())
    exact, theirs = gated_backward(*wide, activation)[1], gate.grad.double()
    assert (d_gate.double() - exact).norm() <= 1.01 * (theirs - exact).norm()


def test_inputs_are_kept_unless_they_may_be_used_up() -> None:
    arguments = (draw(4, 6), draw(4, 6).roll(1), draw(4, 6).roll(2))
    copies = [argument.clone() for argument in arguments]
    kept = gated_backward(*arguments, "silu")
    assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, copies, strict=True))
    used = gated_backward(*arguments, "silu", overwrite=True)
    assert all(torch.equal(a, b) for a, b in zip(kept, used, strict=True))


def test_halves_of_a_fused_product() -> None:
    gate, up = draw(2, 5, 14).chunk(2, -1)
    d_product = draw(2, 5, 7)
    assert torch.equal(gated(gate, up, "silu"), gated(gate.contiguous(), up.contiguous(), "silu"))
    expected = gated_backward(d_product, gate.contiguous(), up.contiguous(), "silu")
    for found, exact in zip(gated_backward(d_product, gate, up, "silu", overwrite=True), expected, strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_far_from_zero_the_gate_is_open_or_shut(activation: str) -> None:
    gate, up = torch.tensor([-1e4, -100.0, 100.0, 1e4]), torch.full((4,), 2.0)
    torch.testing.assert_close(gated(gate, up, activation), torch.tensor([0.0, 0.0, 200.0, 2e4]), rtol=1e-6, atol=1e-6)
    _, d_gate, d_up = gated_backward(torch.ones(4), gate, up, activation)
    torch.testing.assert_close(d_gate, torch.tensor([0.0, 0.0, 2.0, 2.0]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(d_up, torch.tensor([0.0, 0.0, 100.0, 1e4]), rtol=1e-6, atol=1e-6)


def test_no_rows() -> None:
    empty = torch.empty(0, 5)
    assert gated(empty, empty, "silu").shape == (0, 5)
    assert [found.shape for found in gated_backward(empty, empty, empty, "gelu")] == [(0, 5)] * 3
