"""RMSNorm against finite differences in float64 and against the norms of transformers."""

from typing import Any

import pytest
import torch
from chained import Norm
from torch import Tensor
from torch.autograd import gradcheck
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from lorica.kernels import rms_norm, rms_norm_backward

EPS = 1e-5
# The norm of transformers, and what says the same here.
KINDS: list[tuple[Any, dict[str, Any]]] = [
    (LlamaRMSNorm, {"offset": 0.0, "round_first": True}),
    (Gemma2RMSNorm, {"offset": 1.0, "round_first": False}),
    (Olmo2RMSNorm, {"offset": 0.0, "round_first": False}),
]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 4, 5)])
def test_gradients_are_the_finite_differences(shape: tuple[int, ...], offset: float) -> None:
    x, weight = draw(*shape).requires_grad_(), draw(shape[-1])
    assert gradcheck(Norm.apply, (x, weight, EPS, offset))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("norm", "kind"), KINDS, ids=lambda kind: getattr(kind, "__name__", ""))
def test_values_are_those_of_transformers(norm: Any, kind: dict[str, Any], dtype: torch.dtype) -> None:
    """In 16 bits to the bit, but for sums taken in another order, which the rounding hides except where it tips."""
    x = draw(40, 33).to(dtype)
    module = norm(33, eps=EPS).to(dtype)
    module.weight.data = draw(33).to(dtype)
    found, expected = rms_norm(x, module.weight.detach(), EPS, **kind), module(x).detach()
    assert found.dtype == expected.dtype
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    else:
        assert (found != expected).float().mean() < 0.01
        torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(("norm", "kind"), KINDS, ids=lambda kind: getattr(kind, "__name__", ""))
def test_gradients_are_those_of_transformers(norm: Any, kind: dict[str, Any]) -> None:
    x, dy = draw(40, 33).float().requires_grad_(), draw(33, 40).float().t()
    module = norm(33, eps=EPS)
    module.weight.data = draw(33).float()
    module(x).backward(dy)
    weight = module.weight.detach()
    dx = rms_norm_backward(dy, x.detach(), weight, EPS, kind["offset"])
    torch.testing.assert_close(dx, x.grad, rtol=1e-5, atol=1e-6)


def test_a_bf16_gradient_is_the_float64_one_rounded() -> None:
    x, weight, dy, residual = (draw(*shape).bfloat16() for shape in ((9, 64), (64,), (9, 64), (64, 9)))
    residual = residual.t()
    wide = x.double().requires_grad_()
    Norm.apply(wide, weight.double(), EPS, 0.0).backward(dy.double())
    exact = wide.grad + residual.double()
    for overwrite in (False, True):
        given = dy.clone()
        dx = rms_norm_backward(given, x, weight, EPS, residual=residual, overwrite=overwrite)
        assert dx.dtype == torch.bfloat16
        torch.testing.assert_close(dx.double(), exact, rtol=2**-8, atol=1e-6)
        assert (dx.data_ptr() == given.data_ptr()) is overwrite
        assert overwrite or torch.equal(given, dy)


def test_a_gradient_may_have_a_type_of_its_own() -> None:
    x, weight, dy = draw(5, 16).bfloat16(), draw(16).float(), draw(16, 5).t().contiguous().float()
    exact = rms_norm_backward(dy.double(), x.double(), weight.double(), EPS)
    for overwrite in (False, True):
        dx = rms_norm_backward(dy.clone(), x, weight, EPS, overwrite=overwrite)
        assert dx.dtype == torch.float32
        torch.testing.assert_close(dx.double(), exact, rtol=1e-5, atol=1e-6)


def test_rows_of_a_wider_matrix() -> None:
    """The heads of a fused q/k/v product: neither rows nor heads lie end to end."""
    fused, weight = draw(6, 40), draw(8)
    heads = fused[:, 8:32].unflatten(-1, (3, 8))
    dy = draw(6, 3, 8)
    assert torch.equal(rms_norm(heads, weight, EPS), rms_norm(heads.contiguous(), weight, EPS))
    expected = rms_norm_backward(dy, heads.contiguous(), weight, EPS)
    torch.testing.assert_close(rms_norm_backward(dy, heads, weight, EPS), expected)
    inside = torch.zeros(6, 40, dtype=dy.dtype)
    view = inside[:, 8:32].unflatten(-1, (3, 8))
    view.copy_(dy)
    rms_norm_backward(view, heads, weight, EPS, overwrite=True)
    torch.testing.assert_close(view, expected)
    assert inside[:, :8].eq(0).all() and inside[:, 32:].eq(0).all()


@pytest.mark.parametrize("factor", [0.0, 1e-12, 1e12])
def test_extreme_rows(factor: float) -> None:
    """A row of zeros is divided by sqrt(eps), not by zero; a tiny and a huge one keep their direction."""
    x, dy = (draw(2, 16) * factor).float(), draw(16, 2).t().float()
    exact = rms_norm(x.double(), torch.ones(16, dtype=torch.float64), EPS)
    torch.testing.assert_close(rms_norm(x, torch.ones(16), EPS).double(), exact, rtol=1e-5, atol=1e-30)
    assert rms_norm_backward(dy, x, torch.ones(16), EPS).isfinite().all()


def test_no_rows() -> None:
    x, weight = torch.empty(0, 8), torch.ones(8)
    assert rms_norm(x, weight, EPS).shape == (0, 8)
    assert rms_norm_backward(x, x, weight, EPS).shape == (0, 8)
