"""The loss head against the definition in float64, with every kind of projection, and never with all logits at once."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

import tiny_models
from allocations import Watching
from lorica.lora import attach
from lorica.training.head import LossHead, find_head

HIDDEN, VOCABULARY, ROWS = 24, tiny_models.VOCABULARY, 23


def rows(seed: int = 0, count: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, labels and coefficients, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 2 * HIDDEN, generator=generator)[:, ::2]  # not contiguous
    labels = torch.randint(VOCABULARY, (count,), generator=generator)
    coefficients = torch.rand(count, generator=generator) * (torch.arange(count) % 5 != 0)
    return hidden, labels, coefficients


def definition(head: LossHead, hidden: Tensor, labels: Tensor, coefficients: Tensor) -> Tensor:
    """Weighted cross-entropy of all logits at once."""
    z = head.projection(hidden) * head.scale
    z = torch.tanh(z / head.softcap) * head.softcap if head.softcap else z
    return (F.cross_entropy(z, labels, reduction="none") * coefficients.to(z.dtype)).sum()


def gradients(head: LossHead, loss: Any, hidden: Tensor, *arguments: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    hidden = hidden.detach().requires_grad_()
    value = loss(head, hidden, *arguments)
    (value * 3.0).backward()
    found = {name: p.grad for name, p in head.projection.named_parameters() if p.grad is not None}
    assert hidden.grad is not None
    head.projection.zero_grad()
    return value.detach(), {"hidden": hidden.grad, **found}


def projections() -> dict[str, nn.Module]:
    """One of every kind that an adapter makes of an output layer."""
    frozen = nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(False)
    kinds: dict[str, nn.Module] = {"frozen": frozen, "biased": nn.Linear(HIDDEN, VOCABULARY).requires_grad_(False)}
    kinds["trained"] = nn.Linear(HIDDEN, VOCABULARY)
    for name, fields in {
        "lora": {"target_modules": ["lm_head"]},
        "dora": {"target_modules": ["lm_head"], "use_dora": True},
        "copied": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    }.items():
        model = tiny_models.llama()
        tiny_models.randomise(attach(model, r=3, alpha=5, **fields))  # type: ignore[arg-type]
        kinds[name] = model.lm_head
    model = tiny_models.tied_llama()
    tiny_models.randomise(attach(model, r=3, target_modules=["q_proj"], trainable_token_indices=[4, 9]))
    kinds["rows"] = model.lm_head
    return kinds


@pytest.mark.parametrize("kind", projections())
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 0.0), (0.25, 0.0), (1.0, 2.5), (1.5, 3.0)])
@pytest.mark.parametrize("rows_at_a_time", [1, 7, 1000])
def test_loss_and_gradients_against_float64(kind: str, scale: float, softcap: float, rows_at_a_time: int) -> None:
    head = LossHead(projections()[kind], scale, softcap, chunk_bytes=4 * VOCABULARY * rows_at_a_time)
    hidden, labels, coefficients = rows()
    loss, found = gradients(head, LossHead.loss, hidden, labels, coefficients)
    exact = LossHead(copy.deepcopy(head.projection).double(), scale, softcap)
    expected_loss, expected = gradients(exact, definition, hidden.double(), labels, coefficients)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].double(), gradient, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_losses_and_hits_of_evaluation(kind: str) -> None:
    head = LossHead(projections()[kind], 0.5, 4.0, chunk_bytes=4 * VOCABULARY * 5)
    hidden, labels, _ = rows()
    labels[::3] = head.projection(hidden).argmax(-1)[::3]
    losses, hits = head.token_losses(hidden, labels)
    logits = torch.tanh(head.projection(hidden).double() * 0.5 / 4.0) * 4.0
    torch.testing.assert_close(losses.double(), F.cross_entropy(logits, labels, reduction="none"))
    assert hits.tolist() == (logits.argmax(-1) == labels).tolist()
    assert hits.any() and not hits.all()


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_no_row_is_supervised(kind: str) -> None:
    head = LossHead(projections()[kind])
    hidden, labels, coefficients = rows(count=0)
    loss, found = gradients(head, LossHead.loss, hidden, labels, coefficients)
    assert float(loss) == 0.0
    assert all(not gradient.any() for gradient in found.values())
    assert [len(part) for part in head.token_losses(hidden, labels)] == [0, 0]


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_all_logits_never_exist(kind: str) -> None:
    many = 400
    head = LossHead(projections()[kind], chunk_bytes=4 * VOCABULARY * 16)
    hidden, labels, coefficients = rows(count=many)
    with Watching() as watching:
        gradients(head, LossHead.loss, hidden, labels, coefficients)
        head.token_losses(hidden, labels)
    assert 4 * VOCABULARY * 16 <= watching.largest <= 4 * many * HIDDEN < 4 * many * VOCABULARY
    with Watching() as plain:
        gradients(head, definition, hidden, labels, coefficients)
    assert plain.largest >= 4 * many * VOCABULARY


def test_a_16_bit_projection_is_as_good_as_the_plain_loss() -> None:
    head = LossHead(projections()["frozen"].bfloat16(), chunk_bytes=4 * VOCABULARY * 5)
    hidden, labels, coefficients = rows()
    _, found = gradients(head, LossHead.loss, hidden.bfloat16(), labels, coefficients)
    _, plain = gradients(head, definition, hidden.bfloat16(), labels, coefficients)
    exact = LossHead(copy.deepcopy(head.projection).double())
    _, expected = gradients(exact, definition, hidden.bfloat16().double(), labels, coefficients)
    error, plain_error = ((d["hidden"].double() - expected["hidden"]).norm() for d in (found, plain))
    assert float(error) <= 1.1 * float(plain_error)


def cohere() -> Any:
    return tiny_models.made(CohereForCausalLM, CohereConfig(**tiny_models.COMMON | {"logit_scale": 0.0625}))


def granite() -> Any:
    return tiny_models.made(GraniteForCausalLM, GraniteConfig(**tiny_models.COMMON | {"logits_scaling": 8.0}))


@pytest.mark.parametrize(
    ("make", "scale", "softcap"),
    [
        (tiny_models.llama, 1.0, 0.0),
        (tiny_models.gpt2, 1.0, 0.0),
        (tiny_models.gemma2, 1.0, 30.0),
        (tiny_models.mixtral, 1.0, 0.0),
        (cohere, 0.0625, 0.0),
        (granite, 0.125, 0.0),
    ],
)
def test_what_a_model_does_to_its_logits_is_found(make: Any, scale: float, softcap: float) -> None:
    head = find_head(make())
    assert isinstance(head, LossHead)
    assert (head.scale, head.softcap) == (scale, softcap)


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_found_out() -> None:
    model = tiny_models.llama()
    forward = model.forward

    def shifted(*arguments: Any, **named: Any) -> Any:
        output = forward(*arguments, **named)
        output.logits = output.logits.sigmoid()
        return output

    model.forward = shifted
    assert find_head(model) == "the model does something unknown to its logits"
