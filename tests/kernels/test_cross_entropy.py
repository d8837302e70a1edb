"""Cross-entropy against torch's own in float64 and against finite differences."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chained import CrossEntropy
from torch import Tensor
from torch.autograd import gradcheck

from lorica.kernels import cross_entropy, cross_entropy_

SETTINGS = list(product([1.0, 0.25], [0.0, 3.0]))  # scale, softcap


def rows_of(vocabulary: int, rows: int = 6, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and coefficients; one coefficient is 0, one negative, as in unlikelihood training."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = spread * torch.randn(rows, vocabulary, generator=generator)
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    labels[::2] = logits[::2].argmax(-1)
    coefficients = torch.rand(rows, generator=generator)
    coefficients[0], coefficients[-1] = 0, -0.5
    return logits, labels, coefficients


def exact_losses(logits: Tensor, labels: Tensor, scale: float, softcap: float) -> Tensor:
    z = logits.double() * scale
    z = softcap * torch.tanh(z / softcap) if softcap else z
    return F.cross_entropy(z, labels, reduction="none")


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradients_are_the_finite_differences(settings: tuple[float, ...]) -> None:
    logits, labels, coefficients = rows_of(11)
    assert gradcheck(CrossEntropy.apply, (logits.double().requires_grad_(), labels, coefficients.double(), *settings))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("vocabulary", [1, 2, 257, 5003])
def test_losses_hits_and_gradients_are_those_of_torch(vocabulary: int, settings: tuple[float, ...]) -> None:
    logits, labels, coefficients = rows_of(vocabulary)
    wide = logits.double().requires_grad_()
    exact = exact_losses(wide, labels, *settings)
    (exact * coefficients).sum().backward()
    untouched = logits.clone()
    losses, hits = cross_entropy(logits, labels, *settings)
    assert torch.equal(logits, untouched)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), exact.detach(), rtol=1e-6, atol=2e-6)
    assert torch.equal(hits, untouched.argmax(-1) == labels)
    again = cross_entropy_(logits, labels, coefficients, *settings)
    torch.testing.assert_close(again, losses, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(logits.double(), wide.grad, rtol=1e-4, atol=1e-7)
    assert logits[0].eq(0).all()  # its coefficient is 0


def test_bf16_logits_are_computed_in_fp32() -> None:
    logits, labels, coefficients = rows_of(700)
    logits = logits.bfloat16()
    wide = logits.double().requires_grad_()
    exact = exact_losses(wide, labels, 1.0, 30.0)
    (exact * coefficients).sum().backward()
    losses = cross_entropy_(logits, labels, coefficients, softcap=30.0)
    torch.testing.assert_close(losses.double(), exact.detach(), rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(logits.double(), wide.grad, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize(
    "row",
    [
        [1e4, -1e4, 0.0],  # exp overflows and underflows
        [float("-inf"), 1.0, 2.0],  # a token that is ruled out
        [1e38, -1e38, 0.0],
        [0.0, 0.0, 0.0],
    ],
)
@pytest.mark.parametrize("label", [1, 2])
def test_extreme_logits(row: list[float], label: int) -> None:
    logits, labels = torch.tensor([row]), torch.tensor([label])
    wide = logits.double().requires_grad_()
    exact = exact_losses(wide, labels, 1.0, 0.0)
    exact.sum().backward()
    losses = cross_entropy_(logits, labels, torch.ones(1))
    torch.testing.assert_close(losses.double(), exact.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.double(), wide.grad, rtol=1e-6, atol=1e-7)


def test_of_equal_logits_the_first_is_the_most_likely() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0]]).repeat(3, 1)
    labels = torch.tensor([1, 2, 3])
    expected = torch.tensor([True, False, False])
    assert torch.equal(cross_entropy(logits, labels)[1], expected)


def test_a_chunk_inside_a_wider_buffer() -> None:
    logits, labels, coefficients = rows_of(50)
    expected = logits.clone()
    losses = cross_entropy_(expected, labels, coefficients)
    buffer = torch.full((6, 64), 7.0)
    buffer[:, :50] = logits
    found = cross_entropy_(buffer[:, :50], labels, coefficients)
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(buffer[:, :50], expected)
    assert buffer[:, 50:].eq(7).all()


def test_no_rows() -> None:
    empty: Any = (torch.empty(0, 9), torch.empty(0, dtype=torch.int64))
    assert [found.shape for found in cross_entropy(*empty)] == [(0,), (0,)]
    assert cross_entropy_(*empty, torch.empty(0)).shape == (0,)
