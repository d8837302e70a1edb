"""One lean layer against finite differences in float64, in bf16 against fp32, and over a packed base weight."""

import copy
from typing import Any

import pytest
import torch
from both_ways import batch_of, documents_of, relative_difference, sides
from torch import Tensor, nn

import tiny_models as tiny
from allocations import Watching
from lorica.lean import LeanLayer, Policy, find_body
from lorica.lean.frozen import is_projection, project, project_back
from lorica.lean.pack import Pack
from lorica.lora import attach

SMALL = {"hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2}


@pytest.mark.parametrize("policy", [Policy(), Policy("input", mlp_tokens=2)], ids=["kept", "recomputed in chunks"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen3, tiny.gemma2], ids=["llama", "qwen3", "gemma2"])
def test_gradients_against_finite_differences(make: Any, policy: Policy) -> None:
    model = make(**SMALL | {"num_hidden_layers": 1}).double()
    adapter = tiny.randomise(attach(model, r=2, alpha=3)).eval()
    for name, parameter in adapter.named_parameters().items():
        parameter.data = parameter.data.double()
        assert parameter.dtype == torch.float64, name
    [layer] = find_body(model).layers
    assert isinstance(layer, LeanLayer)
    layer.policy = policy
    lengths = (3, 2)
    positions = torch.cat([torch.arange(length) for length in lengths])
    angles = torch.outer(positions, torch.tensor([0.7])).double()
    table = torch.cat([angles, angles], -1)
    pack = Pack(documents_of(batch_of(lengths)), 1, ((table.cos(), table.sin()),))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weights = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value() -> float:
        with torch.no_grad():
            return float((layer(x, pack) * weights).sum())

    named = {"x": x, **adapter.named_parameters()}
    found = torch.autograd.grad((layer(x, pack) * weights).sum(), list(named.values()))
    for (name, tensor), gradient in zip(named.items(), found, strict=True):
        slopes = torch.empty_like(tensor)
        flat, step = tensor.data.view(-1), 1e-6
        for i in range(flat.numel()):
            here = float(flat[i])
            flat[i] = here + step
            above = value()
            flat[i] = here - step
            slopes.view(-1)[i] = (above - value()) / (2 * step)
            flat[i] = here
        torch.testing.assert_close(
            gradient.double(), slopes, rtol=1e-6, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma2, tiny.olmo2], ids=["llama", "gemma2", "olmo2"])
def test_bf16_is_no_worse_than_the_plain_path_in_bf16(make: Any) -> None:
    """Errors against fp32 over the same (rounded) weights, of all gradients together."""
    batch = batch_of()
    half = sides(lambda: make(num_hidden_layers=3).bfloat16())
    exact = copy.deepcopy(half.model).float()
    assert half.body.description == "3/3 layers lean"
    exact_side = sides(lambda: make(num_hidden_layers=3).bfloat16().float())
    assert all(torch.equal(a, b) for a, b in zip(exact.parameters(), exact_side.model.parameters(), strict=True))
    (_, lean), (_, plain), (_, expected) = half.lean(batch), half.plain(batch), exact_side.plain(batch)
    assert error(lean, expected) < 1.1 * error(plain, expected)
    assert all(gradient.dtype == torch.float32 for gradient in lean.values())


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    difference = torch.cat([(found[key].double() - expected[key].double()).flatten() for key in expected])
    return float(difference.norm() / torch.cat([e.flatten() for e in expected.values()]).norm())


def test_fifty_steps_on_both_paths_have_one_curve() -> None:
    curves = []
    for path in ("lean", "plain"):
        both, batches = sides(), [batch_of(seed=seed) for seed in range(5)]
        named = both.adapter.named_parameters()
        optimiser = torch.optim.AdamW(named.values(), lr=5e-3)
        losses = []
        for step in range(50):
            loss, gradients = getattr(both, path)(batches[step % 5])
            for name, parameter in named.items():
                parameter.grad = gradients[name]
            optimiser.step()
            losses.append(float(loss))
        curves.append(losses)
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert sum(curves[0][-5:]) < 0.9 * sum(curves[0][:5]), "something was learnt"


class Halves(nn.Module):
    """A projection in a format of its own: its weight in two parts."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.top, self.bottom = (nn.Parameter(part, requires_grad=False) for part in weight.clone().chunk(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x @ self.top.t(), x @ self.bottom.t()], -1)

    def project_back(self, dy: Tensor) -> Tensor:
        return dy @ torch.cat([self.top, self.bottom])


def test_operations_of_a_layer() -> None:
    """A small model's step takes as long as its calls of torch: 7 adapted projections, two norms, rotations, a gate and
    one document's attention, forwards and backwards, are 313 of them, views included."""

    def operations(layers: int) -> int:
        batch = batch_of((13,))
        both = sides(lambda: tiny.llama(num_hidden_layers=layers), batch, alpha=5)
        with Watching() as seen:
            both.lean(batch)
        return len(seen.operations)

    assert operations(3) - operations(2) <= 313


def test_a_packed_projection_takes_the_place_of_a_dense_one() -> None:
    batch, dense = batch_of(), sides()
    packed = sides()
    for name, layer in packed.adapter.layers.items():
        layer.base = Halves(layer.base.weight)  # type: ignore[arg-type]
        assert is_projection(layer.base), name
    body = find_body(packed.adapter.eval().model)
    assert body.description == "2/2 layers lean"
    packed.adapter.train()
    (loss, found), (expected_loss, expected) = packed.lean(batch), dense.lean(batch)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    assert relative_difference(found, expected) < 1e-6


def test_projections_of_rows_that_are_not_contiguous() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    linear, halves = nn.Linear(4, 6, bias=False), Halves(weight)
    linear.weight.data = weight
    x, dy = torch.randn(5, 8)[:, ::2], torch.randn(5, 12)[:, ::2]
    into = torch.randn(5, 4)
    torch.testing.assert_close(project(linear, x), project(halves, x))
    torch.testing.assert_close(project_back(linear, dy), project_back(halves, dy))
    torch.testing.assert_close(project_back(linear, dy, into.clone()), into + dy @ weight)
    torch.testing.assert_close(project_back(halves, dy, into.clone()), into + dy @ weight)
