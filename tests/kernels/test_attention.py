"""Attention over packs against dense attention in float64 with the mask written out, and against finite differences."""

from collections.abc import Iterator
from itertools import accumulate, product
from typing import Any

import pytest
import torch
from chained import Attention
from torch import Tensor
from torch.autograd import gradcheck
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from allocations import Watching
from lorica.kernels import Documents, attention, attention_backward
from lorica.kernels.attention_by_blocks import BLOCK, attention_backward_by_blocks, attention_by_blocks
from lorica.kernels.attention_of_torch import Flash, MemoryEfficient
from lorica.kernels.scoring import Saved, Scoring

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
# A document of one token first, in the middle and last; neighbours of equal length; one longer than a block of queries.
LENGTHS = [1, 7, 7, 1, BLOCK + 22, 3, 3, 3, 40, 1]


def draw(lengths: list[int], heads: int, kv_heads: int, dim: int, device: str = "cpu") -> Iterator[Tensor]:
    """q, k, v and the gradient of the output; the first three lie in one fused product, as projections give them."""
    generator = torch.Generator().manual_seed(dim)
    fused = torch.randn(sum(lengths), (heads + 2 * kv_heads) * dim, generator=generator).to(device)
    for part in fused.split([heads * dim, kv_heads * dim, kv_heads * dim], -1):
        yield part.unflatten(-1, (-1, dim))
    yield torch.randn(dim, heads, sum(lengths), generator=generator).to(device).permute(2, 1, 0)


def visible(lengths: list[int], window: int | None) -> Tensor:
    """(tokens, tokens): which keys a query sees, by transformers' own rule inside each document."""
    rule = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    tokens = torch.arange(sum(lengths))
    owner = torch.bucketize(tokens, torch.tensor(list(accumulate(lengths))), right=True)
    return rule(0, 0, tokens[:, None], tokens) & (owner[:, None] == owner)


def dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, softcap: float) -> tuple[Tensor, Tensor]:
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = scores.masked_fill(~seen.to(q.device), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v), scores.logsumexp(-1)


def exactly(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, *settings: Any, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Output, log-sum-exp and gradients."""
    leaves = [x.to(dtype).detach().requires_grad_() for x in (q, k, v)]
    out, lse = dense(*leaves, *settings)
    return [out.detach(), lse.detach(), *torch.autograd.grad(out, leaves, dout.to(dtype))]


def assert_near(found: tuple[Tensor, ...], exact: list[Tensor], unit: float) -> None:
    """Within `unit` of the largest element of any: a gradient may be the small difference of large numbers (that of a
    query which sees one key is zero), but not larger ones than the others."""
    largest = max(tensor.abs().max() for tensor in exact)
    for tensor, expected in zip(found, exact, strict=True):
        assert tensor.shape == expected.shape
        assert (tensor.double() - expected).abs().max() <= unit * largest


SHAPES = [(9, 3, 64), (3, 3, 6), (4, 1, 13), (2, 1, 128), (2, 2, 7)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("window", "softcap"), list(product([None, 1, 5, BLOCK + 3], [0.0, 2.0])))
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
def test_values_and_gradients(
    heads: int, kv_heads: int, dim: int, window: int | None, softcap: float, device: str
) -> None:
    q, k, v, dout = draw(LENGTHS, heads, kv_heads, dim, device)
    documents = Documents.of(LENGTHS, device)
    out, lse = attention(q, k, v, documents, 0.3, window, softcap)
    found = attention_backward(dout, q, k, v, out, lse, documents, 0.3, window, softcap)
    exact = exactly(q, k, v, dout, visible(LENGTHS, window), 0.3, softcap)
    assert lse.dtype == torch.float32
    assert_near((out, lse, *found), exact, 2e-6)


@pytest.fixture
def seven_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(7)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("seven_threads")
def test_gradients_are_contiguous_where_keys_were_copied() -> None:
    """One document, whose gradients nothing joins with others'."""
    q, k, v, dout = draw([5], 6, 2, 8)
    documents = Documents.of([5], "cpu")
    found = attention_backward(dout, q, k, v, *attention(q, k, v, documents, 0.3), documents, 0.3)
    assert all(gradient.is_contiguous() for gradient in found)


@pytest.mark.usefixtures("seven_threads")
def test_shared_keys_are_copied_where_that_keeps_more_threads_busy() -> None:
    """Of the runs some leave seven threads without work and get copies of the keys, the others do not."""
    lengths = [5] * 7 + [90, 2, 2]
    q, k, v, dout = draw(lengths, 6, 2, 8)
    documents = Documents.of(lengths, "cpu")
    out, lse = attention(q, k, v, documents, 0.3)
    with Watching() as watching:
        found = attention_backward(dout, q, k, v, out, lse, documents, 0.3)
    # dk and dv of the long document and of the two short ones are added up after the kernel, those of the seven in it.
    assert watching.operations.count("aten.sum.dim_IntList") == 4
    exact = exactly(q, k, v, dout, visible(lengths, None), 0.3, 0.0)
    assert_near((out, lse, *found), exact, 2e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (5, 0.0), (None, 2.0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 13])
def test_sixteen_bits(dim: int, dtype: torch.dtype, window: int | None, softcap: float, device: str) -> None:
    """As near to float64 as dense attention in the type, or nearer. Dense attention rounds scores and probabilities;
    torch's kernel for CPUs rounds its running sum of dv instead, which costs a few per cent there."""
    q, k, v, dout = (x.to(dtype) for x in draw(LENGTHS, 6, 2, dim, device))
    documents = Documents.of(LENGTHS, device)
    out, lse = attention(q, k, v, documents, dim**-0.5, window, softcap)
    found = attention_backward(dout, q, k, v, out, lse, documents, dim**-0.5, window, softcap)
    assert {tensor.dtype for tensor in (out, *found)} == {dtype} and lse.dtype == torch.float32
    exact = exactly(q, k, v, dout, visible(LENGTHS, window), dim**-0.5, softcap)
    plain = exactly(q, k, v, dout, visible(LENGTHS, window), dim**-0.5, softcap, dtype=dtype)
    for tensor, expected, rounded in zip((out, lse, *found), exact, plain, strict=True):
        assert (tensor - expected).norm() <= 1.1 * (rounded - expected).norm()


@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (2, 0.0), (None, 1.5), (3, 1.5)])
def test_gradients_are_the_finite_differences(window: int | None, softcap: float) -> None:
    lengths = [1, 4, 4, 2]
    q, k, v, _ = (x.double().requires_grad_() for x in draw(lengths, 4, 2, 3))
    documents = Documents.of(lengths, "cpu")
    assert gradcheck(Attention.apply, (q, k, v, documents, 0.6, window, softcap))


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_blocks_are_a_reference_for_the_flash_kernel(softcap: float) -> None:
    q, k, v, dout = (x.double() for x in draw(LENGTHS, 4, 2, 10))
    documents = Documents.of(LENGTHS, "cpu")
    how = Scoring(documents, 0.3, None, softcap)
    out, lse = attention_by_blocks(q, k, v, how)
    found = attention_backward_by_blocks(dout, Saved(q, k, v, out, lse), how)
    exact = exactly(q, k, v, dout, visible(LENGTHS, None), 0.3, softcap)
    for tensor, expected in zip((out, lse, *found), exact, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [None, 4])
def test_the_cap_is_that_of_gemma(window: int | None) -> None:
    q, k, v, _ = draw([12], 4, 2, 8)
    out, _ = attention(q, k, v, Documents.of([12], "cpu"), 0.3, window, 1.5)
    module = torch.nn.Module()
    module.num_key_value_groups, module.training = 2, False  # type: ignore[assignment]
    mask = torch.zeros(1, 1, 12, 12).masked_fill(~visible([12], window), float("-inf"))
    heads = (x.transpose(0, 1)[None] for x in (q, k, v))
    expected, _ = eager_attention_forward(module, *heads, mask, scaling=0.3, softcap=1.5)
    torch.testing.assert_close(out, expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (3, 0.0), (None, 2.0)])
def test_a_document_alone_has_the_same_bits(window: int | None, softcap: float) -> None:
    """Whatever else is in the pack, and however wild it is."""
    lengths = [5, 30, 30, 9]
    q, k, v, dout = draw(lengths, 4, 2, 8)
    for x in (q, k, v, dout):
        x[:5], x[65:] = float("nan"), float("inf")
    documents, alone, rows = Documents.of(lengths, "cpu"), Documents.of([30], "cpu"), slice(35, 65)
    packed = attention(q, k, v, documents, 0.3, window, softcap)
    gradients = attention_backward(dout, q, k, v, *packed, documents, 0.3, window, softcap)
    single = attention(q[rows], k[rows], v[rows], alone, 0.3, window, softcap)
    own = attention_backward(dout[rows], q[rows], k[rows], v[rows], *single, alone, 0.3, window, softcap)
    assert torch.equal(packed[0][rows], single[0]) and torch.equal(packed[1][:, rows], single[1])
    for together, apart in zip(gradients, own, strict=True):
        assert torch.equal(together[rows], apart)


def test_of_nothing() -> None:
    q, k, v, dout = draw([], 4, 2, 8)
    documents = Documents.of([], "cpu")
    out, lse = attention(q, k, v, documents, 0.3)
    assert (out.shape, lse.shape) == ((0, 4, 8), (4, 0))
    assert [g.shape for g in attention_backward(dout, q, k, v, out, lse, documents, 0.3)] == [q.shape, k.shape, v.shape]
    with pytest.raises(AssertionError, match="no tokens"):
        Documents.of([3, 0, 2], "cpu")


def cost(lengths: list[int], window: int | None, softcap: float) -> Watching:
    q, k, v, dout = (x.contiguous() for x in draw(lengths, 6, 2, 4))
    documents = Documents.of(lengths, "cpu")
    with Watching() as watching:
        out, lse = attention(q, k, v, documents, 0.3, window, softcap)
        attention_backward(dout, q, k, v, out, lse, documents, 0.3, window, softcap)
    return watching


def test_nothing_larger_than_the_inputs_without_a_cap_or_a_window() -> None:
    tokens = 5 * BLOCK
    for lengths in ([tokens], [BLOCK] * 5, [1, tokens - 1]):
        assert cost(lengths, None, 0.0).largest == tokens * 6 * 4 * 4  # bytes of q, of the output, of dq


@pytest.mark.parametrize(("window", "softcap"), [(None, 2.0), (20, 0.0)])
def test_no_more_than_a_row_of_blocks_with_them(window: int | None, softcap: float) -> None:
    tokens = 5 * BLOCK
    keys = tokens if window is None else BLOCK + window - 1
    assert cost([tokens], window, softcap).largest == BLOCK * 6 * keys * 4  # one block's scores
    short = cost([64] * 10, window, softcap)
    assert short.largest == max(64 * 6 * 64 * 4, tokens * 6 * 4 * 4)


@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (5, 0.0), (None, 2.0)])
def test_operations_grow_with_the_number_of_documents(window: int | None, softcap: float) -> None:
    lengths = [10, 12, 14, 16]
    once, twice, thrice = (len(cost(lengths * times, window, softcap).operations) for times in (1, 2, 3))
    assert thrice - twice == twice - once > 0


def test_documents_of_equal_length_are_one_call_of_the_flash_kernel() -> None:
    assert cost([8] * 20, None, 0.0).operations == cost([160], None, 0.0).operations


@pytest.mark.parametrize("window", [None, 5])
def test_gpu_kernels_are_called_as_torch_declares_them(window: int | None) -> None:
    """Arguments and shapes, without a GPU. torch 2.13 declares the memory-efficient backward pass without `out`."""
    lengths = [10, 20]
    table = torch.empty(len(lengths) + 1, dtype=torch.int32, device="meta")
    how = Scoring(Documents([0, 10, 30], table, 20), 0.3, window, 0.0)
    for kernel, dtype in ((Flash(), torch.bfloat16), (MemoryEfficient(), torch.float32)):
        q, k, v, _ = (x.to("meta", dtype) for x in draw(lengths, 6, 2, 64))
        out, lse = kernel.forward(q, k, v, how)
        assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, dtype, (6, 30), torch.float32)
        if isinstance(kernel, Flash):
            found = kernel.backward(torch.empty_like(out), Saved(q, k, v, out, lse), how)
            assert [x.shape for x in found] == [q.shape, k.shape, v.shape]
