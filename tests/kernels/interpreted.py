"""The Triton kernels against the references in float64: on a GPU, or where `TRITON_INTERPRET` is 1 in Triton's
interpreter. Collected by `test_triton.py`, in a process of its own: which it is, is settled when Triton is imported.

The interpreter is numpy's arithmetic without threads, so it finds wrong formulas, masks and offsets, and no races.
"""

import os
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from lorica.kernels import ACTIVATIONS
from lorica.kernels.cross_entropy import cross_entropy_reference, cross_entropy_reference_
from lorica.kernels.gated import gated_backward_reference, gated_reference
from lorica.kernels.norm import rms_norm_backward_reference, rms_norm_reference
from lorica.kernels.rotary import rotate_reference_
from lorica.kernels.triton.cross_entropy import BLOCK, cross_entropy_triton, cross_entropy_triton_
from lorica.kernels.triton.gated import gated_backward_triton_, gated_triton
from lorica.kernels.triton.norm import rms_norm_backward_triton_, rms_norm_triton
from lorica.kernels.triton.rotary import rotate_triton_
from lorica.kernels.triton.unpack import unpack_triton_
from lorica.kernels.unpack import FORMATS
from lorica.quant import CODECS

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-5
# One row, rows that do not fill a program, several in a program, a row of several warps; powers of two and not.
SHAPES = [(1, 1), (5, 37), (2, 3, 64), (2, 2500), (0, 8)]


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator(DEVICE).manual_seed(sum(shape))).to(dtype)


def assert_close(found: Tensor, exact: Tensor, absolute: float = 2e-6) -> None:
    """Within one unit in the last place: the interpreter cuts bf16 off where a GPU rounds it to the nearest."""
    torch.testing.assert_close(found.double(), exact, rtol=max(torch.finfo(found.dtype).eps, 2e-6), atol=absolute)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("offset", "round_first"), [(0.0, True), (1.0, False)])
@pytest.mark.parametrize("shape", SHAPES)
def test_norm(shape: tuple[int, ...], offset: float, round_first: bool, dtype: torch.dtype) -> None:
    x, weight, residual, dy = (draw(*s, dtype=dtype) for s in (shape, shape[-1:], shape, shape))
    residual = residual.flip(0)
    if round_first:
        # In the type itself: rounding in between is part of the definition.
        expected = rms_norm_reference(x, weight, EPS, offset, round_first).double()
        tolerance = 2.0
    else:
        expected = rms_norm_reference(x.double(), weight.double(), EPS, offset, round_first)
        tolerance = 1.0
    found = rms_norm_triton(x, weight, EPS, offset, round_first)
    assert (found.shape, found.dtype) == (x.shape, dtype)
    unit = max(torch.finfo(dtype).eps, 2e-6)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance * unit, atol=2e-6)

    for added in (None, residual):
        dx = dy.clone()
        rms_norm_backward_triton_(dx, x, weight, EPS, offset, added)
        wide = None if added is None else added.double()
        assert_close(dx, rms_norm_backward_reference(dy.double(), x.double(), weight.double(), EPS, offset, wide), 5e-6)


def test_norm_with_weights_of_another_type() -> None:
    x, weight = draw(3, 8, dtype=torch.bfloat16), draw(8)
    found, expected = rms_norm_triton(x, weight, EPS), rms_norm_reference(x, weight, EPS)
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-6)


def test_norm_of_heads_inside_a_fused_product() -> None:
    """Rows that cannot be viewed as a matrix, and strided features: copied, and copied back."""
    fused, weight = draw(6, 40), draw(8)
    for x in (fused[:, 8:32].unflatten(-1, (3, 8)), draw(8, 6).t()):
        assert_close(rms_norm_triton(x, weight, EPS), rms_norm_reference(x.double(), weight.double(), EPS))
        dy, residual = draw(*x.shape), draw(*x.shape).flip(0)
        for place in (dy.clone(), dy.transpose(0, -1).contiguous().transpose(0, -1)):
            rms_norm_backward_triton_(place, x, weight, EPS, residual=residual)
            exact = (dy.double(), x.double(), weight.double(), EPS, 0.0, residual.double())
            assert_close(place, rms_norm_backward_reference(*exact), 5e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("heads", "dim", "pairs"), [(1, 2, 1), (3, 13, 5), (33, 8, 4)])
def test_rotary(heads: int, dim: int, pairs: int, inverse: bool, interleaved: bool, dtype: torch.dtype) -> None:
    x, cos, sin = draw(7, heads, dim, dtype=dtype), draw(7, pairs), draw(pairs, 7).t()
    exact = rotate_reference_(x.double(), cos.double(), sin.double(), interleaved, inverse)
    rotate_triton_(x, cos, sin, interleaved, inverse)
    assert_close(x, exact)


def test_rotary_in_a_fused_product_of_two_lanes() -> None:
    fused, cos, sin = draw(2, 5, 40), draw(5, 8)[:, ::2], draw(5, 8)[:, 1::2]
    untouched, queries = fused.clone(), fused[..., 8:32].unflatten(-1, (3, 8))
    exact = rotate_reference_(queries.double(), cos.double(), sin.double())
    rotate_triton_(queries, cos, sin)
    assert_close(fused[..., 8:32].unflatten(-1, (3, 8)), exact)
    assert torch.equal(fused[..., :8], untouched[..., :8]) and torch.equal(fused[..., 32:], untouched[..., 32:])
    batched = draw(2, 3, 5, 8).transpose(1, 2)  # heads before tokens in memory: no view as (tokens, heads, dim)
    exact = rotate_reference_(batched.double(), cos.double(), sin.double())
    rotate_triton_(batched, cos, sin)
    assert_close(batched, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gated(shape: tuple[int, ...], activation: str, dtype: torch.dtype) -> None:
    gate, up, d_product = (3 * draw(*shape, dtype=dtype).roll(shift, -1) for shift in (0, 1, 2))
    wide = (gate.double(), up.double())
    found = gated_triton(gate, up, activation)
    assert found.dtype == dtype
    assert_close(found, gated_reference(*wide, activation))
    exact = gated_backward_reference(d_product.double(), *wide, activation)
    gated_backward_triton_(d_product, gate, up, activation)
    for tensor, expected in zip((d_product, gate, up), exact, strict=True):
        assert_close(tensor, expected, 1e-5)


def test_gated_halves_of_a_fused_product() -> None:
    fused, d_product = draw(2, 3, 14), draw(2, 3, 7)
    gate, up = fused.chunk(2, -1)
    exact = gated_backward_reference(d_product.double(), gate.double(), up.double(), "silu")
    assert_close(gated_triton(gate, up, "silu"), exact[0])
    gated_backward_triton_(d_product, gate, up, "silu")
    for tensor, expected in zip((d_product, gate, up), exact, strict=True):
        assert_close(tensor, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_far_from_zero(activation: str) -> None:
    gate, up, d_product = torch.tensor([[-1e4, -90.0, 90.0, 1e4]]), torch.full((1, 4), 2.0), torch.ones(1, 4)
    exact = gated_backward_reference(d_product.double(), gate.double(), up.double(), activation)
    gated_backward_triton_(d_product, gate, up, activation)
    for tensor, expected in zip((d_product, gate, up), exact, strict=True):
        assert_close(tensor, expected)


# Vocabularies of one token, within a block, and of a block and a bit.
@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(1, torch.float32), (300, torch.bfloat16), (300, torch.float16), (BLOCK + 5, torch.float32)],
)
@pytest.mark.parametrize("settings", list(product([1.0, 0.25], [0.0, 3.0])))
def test_cross_entropy(settings: tuple[float, ...], dtype: torch.dtype, vocabulary: int) -> None:
    logits, coefficients = 3 * draw(4, vocabulary, dtype=dtype), torch.tensor([0.0, 1.0, 0.3, -0.5])
    labels = torch.tensor([0, vocabulary - 1, vocabulary // 2, int(logits[3].argmax())])
    untouched, wide = logits.clone(), logits.double()
    hits = cross_entropy_reference(wide, labels, *settings)[1]
    exact = cross_entropy_reference_(wide, labels, coefficients.double(), *settings)
    losses, found_hits = cross_entropy_triton(logits, labels, *settings)
    assert torch.equal(logits, untouched)
    assert torch.equal(found_hits, hits)
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=5e-6)
    assert torch.equal(cross_entropy_triton_(logits, labels, coefficients, *settings), losses)
    assert_close(logits, wide, 1e-6)


def test_cross_entropy_in_a_wider_buffer_and_of_no_rows() -> None:
    buffer, labels = draw(3, 20), torch.tensor([3, 1, 9])
    untouched, wide = buffer.clone(), buffer[:, :10].double()
    exact = cross_entropy_reference_(wide, labels, torch.ones(3).double())
    losses = cross_entropy_triton_(buffer[:, :10], labels, torch.ones(3))
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=2e-6)
    assert_close(buffer[:, :10], wide)
    assert torch.equal(buffer[:, 10:], untouched[:, 10:])
    assert cross_entropy_triton(buffer[:0], labels[:0])[0].shape == (0,)


@pytest.mark.parametrize(
    "row", [[1e4, -1e4, 0.0], [-float("inf"), 1.0, 2.0], [1e38, -1e38, 0.0], [0.0, 0.0, 0.0], [1.0, 5.0, 5.0]]
)
@pytest.mark.parametrize("label", [1, 2])
def test_cross_entropy_of_extreme_and_equal_logits(row: list[float], label: int) -> None:
    logits, labels = torch.tensor([row]), torch.tensor([label])
    wide: Any = logits.double()
    exact, hits = cross_entropy_reference(wide, labels)
    cross_entropy_reference_(wide, labels, torch.ones(1).double())
    assert torch.equal(cross_entropy_triton(logits, labels)[1], hits)
    losses = cross_entropy_triton_(logits, labels, torch.ones(1))
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=1e-6)
    assert_close(logits, wide)


# A block, several to a row, more than a program holds, no rows.
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (3, 768), (9, 512), (0, 256)])
@pytest.mark.parametrize("name", FORMATS)
def test_unpack(name: str, rows: int, columns: int) -> None:
    """Of any bytes at all, NaN scales among them: in fp32 to the bit."""
    codec, draw_ = CODECS[name], torch.Generator().manual_seed(rows)
    run, runs_of_block, block_bytes = FORMATS[name]
    assert (run * runs_of_block, 8 * block_bytes) == (codec.block_length, codec.block_length * codec.bits_per_weight)
    packed = torch.randint(256, (rows, codec.row_bytes(columns)), generator=draw_, dtype=torch.uint8)
    expected = codec.unpack(packed)
    for dtype in DTYPES:
        found = torch.full((rows, columns), 7.0, dtype=dtype)
        unpack_triton_(name, packed, found)
        if dtype == torch.float32:
            numbers = ~expected.isnan()
            assert torch.equal(found.isnan(), ~numbers)
            assert torch.equal(found.view(torch.int32)[numbers], expected.view(torch.int32)[numbers])
        else:
            usable = expected.abs() < 6e4
            assert_close(found[usable], expected[usable].double(), 6e-8)
