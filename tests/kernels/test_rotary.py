"""Rotary embedding against transformers' own, against complex numbers, and against finite differences."""

from typing import Any

import pytest
import torch
from chained import Rotation
from torch import Tensor
from torch.autograd import gradcheck
from transformers.models.cohere import modeling_cohere
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3

from lorica.kernels import rotate_

TOKENS, PAIRS = 9, 4


def angles(scale: float = 1.0) -> Tensor:
    """(tokens, pairs) of positions that restart, as in a packed row."""
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 0, 1, 500])
    return scale * positions[:, None] * 10_000 ** -(torch.arange(PAIRS) / PAIRS)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def tables(interleaved: bool = False) -> tuple[Tensor, Tensor]:
    """(tokens, 2 * pairs) as transformers has them, scaled as by YaRN."""
    doubled = angles().repeat_interleave(2, -1) if interleaved else torch.cat([angles()] * 2, -1)
    return 1.3 * doubled.cos(), 1.3 * doubled.sin()


@pytest.mark.parametrize(
    ("module", "dim", "table_interleaved", "interleaved"),
    [
        (modeling_llama, 8, False, False),
        (modeling_phi3, 13, False, False),  # partial: 8 of 13 features turn
        (modeling_cohere, 8, True, True),
        (modeling_glm, 11, False, True),  # partial, with Llama's table of angles
    ],
    ids=["llama", "phi3", "cohere", "glm"],
)
def test_as_transformers_does(module: Any, dim: int, table_interleaved: bool, interleaved: bool) -> None:
    x, (cos, sin) = draw(TOKENS, 3, dim), tables(table_interleaved)
    expected, _ = module.apply_rotary_pos_emb(x[None], x[None], cos[None], sin[None], unsqueeze_dim=2)
    once = slice(None, None, 2) if table_interleaved else slice(PAIRS)
    found = rotate_(x, cos[:, once], sin[:, once], interleaved)
    assert found is x
    torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_gradients_are_the_finite_differences(interleaved: bool) -> None:
    x = draw(TOKENS, 2, 2 * PAIRS + 1).double().requires_grad_()
    assert gradcheck(Rotation.apply, (x, angles().cos().double(), angles().sin().double(), interleaved))


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_pair_is_a_complex_number(interleaved: bool) -> None:
    x = draw(TOKENS, 2, 2 * PAIRS).double()
    pairs = x.unflatten(-1, (PAIRS, 2)) if interleaved else x.unflatten(-1, (2, PAIRS)).transpose(-1, -2)
    exact = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones(1), angles()).unsqueeze(1)
    rotate_(x, angles().cos(), angles().sin(), interleaved)
    pairs = x.unflatten(-1, (PAIRS, 2)) if interleaved else x.unflatten(-1, (2, PAIRS)).transpose(-1, -2)
    torch.testing.assert_close(
        torch.view_as_complex(pairs.contiguous()), exact.to(torch.complex128), rtol=1e-5, atol=1e-6
    )


def test_there_and_back() -> None:
    x = draw(TOKENS, 3, 2 * PAIRS).double()
    turned = rotate_(x.clone(), angles().double().cos(), angles().double().sin())
    assert (turned - x).abs().max() > 0.1
    torch.testing.assert_close(rotate_(turned, angles().double().cos(), angles().double().sin(), inverse=True), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_once(dtype: torch.dtype) -> None:
    x = draw(TOKENS, 3, 10).to(dtype)
    exact = rotate_(x.double(), angles().cos(), angles().sin())
    found = rotate_(x, angles().cos(), angles().sin())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_lanes_share_angles_or_have_their_own() -> None:
    x = draw(2, TOKENS, 3, 8)
    rows = torch.stack([rotate_(row.clone(), angles().cos(), angles().sin()) for row in x])
    assert torch.equal(rotate_(x.clone(), angles().cos(), angles().sin()), rows)
    own = torch.stack([angles(), angles(0.7)])
    rows = torch.stack([rotate_(row.clone(), a.cos(), a.sin()) for row, a in zip(x, own, strict=True)])
    assert torch.equal(rotate_(x.clone(), own.cos(), own.sin()), rows)


def test_in_place_in_a_slice_of_a_fused_product() -> None:
    fused = draw(TOKENS, 40)
    untouched = fused.clone()
    queries = fused[:, 8:32].unflatten(-1, (3, 8))
    expected = rotate_(queries.clone(), angles().cos(), angles().sin())
    rotate_(queries, angles().cos(), angles().sin())
    assert torch.equal(fused[:, 8:32].unflatten(-1, (3, 8)), expected)
    assert torch.equal(fused[:, :8], untouched[:, :8]) and torch.equal(fused[:, 32:], untouched[:, 32:])


def test_no_tokens() -> None:
    assert rotate_(torch.empty(0, 3, 8), torch.empty(0, 4), torch.empty(0, 4)).shape == (0, 3, 8)
