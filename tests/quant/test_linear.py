"""The packed linear layer and embedding against torch's own on the unpacked weight."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from packed_models import bytes_held, linear, packed_and_dense
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks

from lorica.quant import CODECS, PackedEmbedding, PackedLinear, PackedMatrix, codec, packed_module
from lorica.quant import matrix as matrix_module

NAMES = list(CODECS)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of 256 weights at a time."""
    monkeypatch.setattr(matrix_module, "CHUNK", {"cpu": 600, "cuda": 600})


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of rows that each unpacking gave."""
    seen: list[int] = []
    original = PackedMatrix.__init__

    class Counting:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def unpack(self, packed: Tensor, out: Tensor | None = None) -> Tensor:
            seen.append(len(packed))
            return self.inner.unpack(packed, out)

    def init(self: PackedMatrix, chosen: Any, packed: Tensor) -> None:
        original(self, chosen, packed)
        self.codec = Counting(chosen)  # type: ignore[assignment]

    monkeypatch.setattr(PackedMatrix, "__init__", init)
    yield seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(256,), (1, 256), (2, 5, 256), (3, 2, 4, 256), (0, 256)])
def test_values_and_gradients_are_those_of_the_unpacked_weight(name: str, shape: tuple[int, ...]) -> None:
    layer, weight = linear(name, 7, 256, bias=True)
    x, again = (draw(*shape).requires_grad_() for _ in range(2))
    y, expected = layer(x), F.linear(again, weight, layer.bias)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-5)
    dy = draw(*y.shape)
    y.backward(dy)
    expected.backward(dy)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-6, atol=1e-5)
    assert not [parameter for parameter in layer.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_chunks_are_one_product(small_chunks: None, dtype: torch.dtype) -> None:
    layer, weight = linear("Q4_K", 23, 256, dtype=dtype)
    x, dy = draw(6, 256, dtype=dtype), draw(23, 6, dtype=dtype).t()  # a gradient that lies the other way round
    unit = max(torch.finfo(dtype).eps, 1e-6)  # of a sum of 256 terms
    exact, exact_back = x.double() @ weight.double().t(), dy.double() @ weight.double()
    torch.testing.assert_close(layer.project(x).double(), exact, rtol=unit, atol=16 * unit)
    torch.testing.assert_close(layer.project_back(dy).double(), exact_back, rtol=unit, atol=16 * unit)
    assert layer.project(x).dtype == layer.project_back(dy).dtype == dtype


def test_products_into_given_memory(small_chunks: None) -> None:
    layer, weight = linear("NF4", 9, 256, bias=True)
    x, dy, out = draw(2, 3, 256), draw(2, 3, 9), torch.full((2, 3, 9), float("nan"))
    assert layer.project(x, out) is out
    torch.testing.assert_close(out, F.linear(x, weight, layer.bias), rtol=1e-6, atol=1e-5)
    given = draw(2, 3, 256)
    expected = given + dy @ weight
    assert layer.project_back(dy, into=given) is given
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-5)


def test_gradients_are_finite_differences(small_chunks: None) -> None:
    layer, _ = linear("Q8_0", 5, 64, bias=True, dtype=torch.float64)
    assert gradcheck(layer, (draw(2, 3, 64).double().requires_grad_(),))


def test_inputs_are_cast_to_what_it_computes_in() -> None:
    layer, weight = linear("Q8_0", 8, 64, dtype=torch.bfloat16)
    x = draw(3, 64).requires_grad_()
    y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, F.linear(x.bfloat16(), weight))
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def test_autograd_keeps_nothing() -> None:
    layer, _ = linear("Q4_K", 16, 256, bias=True)
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        layer(draw(4, 256).requires_grad_()).sum().backward()
    assert saved == []


def test_embeddings_unpack_the_rows_that_are_looked_up(unpacked: list[int]) -> None:
    weight = draw(50, 256)
    matrix = PackedMatrix(codec("Q4_K"), codec("Q4_K").pack(weight))
    embedding = packed_module(nn.Embedding(50, 256), matrix, torch.bfloat16)
    tokens = torch.tensor([[3, 49, 3], [0, 7, 7]])
    found = embedding(tokens)
    assert unpacked == [6]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, F.embedding(tokens, matrix.dense().bfloat16()))
    assert embedding(tokens[:, :0]).shape == (2, 0, 256)


def test_gemma_s_embedding_is_multiplied_by_its_rounded_scale() -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    own = Gemma3TextScaledWordEmbedding(9, 64, padding_idx=0, embed_scale=640**0.5).bfloat16()
    matrix = PackedMatrix(codec("BF16"), codec("BF16").pack(own.weight))
    tokens = torch.arange(9)
    assert torch.equal(packed_module(own, matrix, torch.bfloat16)(tokens), own(tokens))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "NF4_DQ", "Q2_K"])
def test_a_model_holds_little_more_than_its_packed_bytes(name: str) -> None:
    packed, dense = packed_and_dense(name, vocab_size=512)
    # rows of 256 weights pay the 12 bytes a row of double quantisation; a real model's rows are longer
    size = sum(codec(name).row_bytes(w.shape[1]) * len(w) for w in dense.parameters() if w.ndim == 2)
    assert bytes_held(packed) <= 1.05 * size
    ids = torch.arange(12).view(1, -1)
    packed(input_ids=ids)
    assert bytes_held(packed) <= 1.05 * size
    torch.testing.assert_close(packed(ids).logits, dense(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_tied_pair_is_one_weight_and_stays_one() -> None:
    packed, dense = packed_and_dense("Q8_0", tie_word_embeddings=True)
    embedding, head = packed.get_input_embeddings(), packed.get_output_embeddings()
    assert isinstance(embedding, PackedEmbedding) and isinstance(head, PackedLinear)
    for model in (packed, copy.deepcopy(packed), copy.deepcopy(packed).to("meta")):
        pair = (model.get_input_embeddings(), model.get_output_embeddings())
        assert pair[0].matrix.packed is pair[1].matrix.packed
    ids = torch.arange(12).view(1, -1)
    torch.testing.assert_close(packed(ids).logits, dense(ids).logits, rtol=1e-5, atol=1e-5)


def test_shapes_are_known_without_values() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        for name in NAMES:
            chosen = codec(name)
            packed = torch.empty(4, chosen.row_bytes(256), dtype=torch.uint8)
            layer = PackedLinear(PackedMatrix(chosen, packed), torch.float32)
            x = torch.empty(2, 3, 256).requires_grad_()
            y = layer(x)
            y.sum().backward()
            assert y.shape == (2, 3, 4) and x.grad is not None and x.grad.shape == x.shape


def test_what_cannot_hold_a_packed_weight_is_refused() -> None:
    matrix = PackedMatrix(codec("Q8_0"), codec("Q8_0").pack(torch.zeros(4, 64)))
    with pytest.raises(ValueError, match="a Conv1d cannot hold a packed weight"):
        packed_module(nn.Conv1d(64, 4, 1), matrix, torch.float32)
    with pytest.raises(ValueError, match=r"a Linear of \(64, 4\) was given a packed weight of \(4, 64\)"):
        packed_module(nn.Linear(4, 64), matrix, torch.float32)
