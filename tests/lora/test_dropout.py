"""Dropout that follows the tokens: the right statistics, and the same mask however a step is cut."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models as tiny
from lorica.lora import attach
from lorica.lora.dropout import token_dropout, token_keys

TOKENS, FEATURES = 400, 256


def keys(step: int = 0, seed: int = 0, example: int = 3) -> torch.Tensor:
    return token_keys(seed, step, torch.full((TOKENS,), example), torch.arange(TOKENS))


def kept(p: float, mask_keys: torch.Tensor, layer: int = 0) -> torch.Tensor:
    return (token_dropout(torch.ones(1, TOKENS, FEATURES), p, mask_keys, layer)[0] != 0).float()


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9, 0.99])
def test_the_share_and_the_scale(p: float) -> None:
    dropped = token_dropout(torch.full((1, TOKENS, FEATURES), 3.0), p, keys(), 0)
    values = dropped.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 3 / (1 - p)]))
    share = (dropped == 0).double().mean()
    assert abs(share - p) < 4 * (p * (1 - p) / dropped.numel()) ** 0.5
    for axis in (1, 2):  # every token and every feature alike: chi-squared of the rows
        counts = (dropped == 0).double().sum(axis).flatten()
        n = dropped.shape[axis]
        spread = ((counts - n * p) ** 2 / (n * p * (1 - p))).mean()
        assert abs(spread - 1) < 5 * (2 / len(counts)) ** 0.5


def test_nothing_is_dropped_at_zero() -> None:
    x = torch.randn(1, TOKENS, FEATURES, generator=torch.Generator().manual_seed(0))
    assert torch.equal(token_dropout(x, 0.0, keys(), 0), x)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return float((a * b).mean() / (a.std() * b.std())) * a.numel() ** 0.5  # standard normal if independent


def test_masks_are_independent() -> None:
    p = 0.4
    mask = kept(p, keys())
    others = {
        "step": kept(p, keys(step=1)),
        "next seed": kept(p, keys(seed=1)),
        "example": kept(p, keys(example=4)),
        "layer": kept(p, keys(), layer=1),
        "far layer": kept(p, keys(), layer=255),
        "next token": mask.roll(1, 0),
        "next feature": mask.roll(1, 1),
        "diagonal": mask.roll((1, 1), (0, 1)),
    }
    for what, other in others.items():
        assert abs(correlation(mask, other)) < 4, what
    for (what, one), (also, other) in itertools.combinations(others.items(), 2):
        if not {what, also} <= {"next token", "next feature", "diagonal"}:
            assert abs(correlation(one, other)) < 4.5, (what, also)


def test_distinct_tokens_have_distinct_keys() -> None:
    steps = torch.cat([token_keys(seed, step, *grid(40, 50)) for seed in range(4) for step in range(10)])
    assert len(steps.unique()) == len(steps)


def grid(examples: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.cartesian_prod(torch.arange(examples), torch.arange(positions))
    return pairs[:, 0], pairs[:, 1]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_mask_is_the_same_whatever_the_packing(lengths: list[int], random: object) -> None:
    examples = list(range(len(lengths)))
    random.shuffle(examples)  # type: ignore[attr-defined]
    alone = {e: mask_of([e], lengths) for e in examples}
    packed = mask_of(examples, lengths)
    assert torch.equal(packed, torch.cat([alone[e] for e in examples], 0))


def mask_of(examples: list[int], lengths: list[int]) -> torch.Tensor:
    owners = torch.cat([torch.full((lengths[e],), e) for e in examples])
    positions = torch.cat([torch.arange(lengths[e]) for e in examples])
    x = torch.ones(1, len(owners), 8)
    return token_dropout(x, 0.5, token_keys(1, 2, owners, positions), 3)[0]


def test_all_lanes_and_layouts_share_a_mask() -> None:
    x, mask_keys = torch.ones(3, TOKENS, FEATURES), keys()
    lanes = token_dropout(x, 0.3, mask_keys, 5)
    assert torch.equal(lanes[0], lanes[1]) and torch.equal(lanes[0], token_dropout(x[0], 0.3, mask_keys, 5))
    own = token_dropout(x, 0.3, torch.stack([mask_keys, keys(step=1), mask_keys]), 5)
    assert torch.equal(own[0], lanes[0]) and torch.equal(own[2], lanes[0]) and not torch.equal(own[1], lanes[1])


def test_the_gradient_passes_kept_elements_only() -> None:
    x = torch.randn(1, TOKENS, FEATURES, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = token_dropout(x, 0.3, keys(), 0)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)
    assert x.grad.max() == pytest.approx(1 / 0.7)


def test_bf16_stays_bf16() -> None:
    x = torch.ones(1, TOKENS, FEATURES, dtype=torch.bfloat16)
    y = token_dropout(x, 0.1, keys(), 0)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y != 0, token_dropout(x.float(), 0.1, keys(), 0) != 0)


def test_without_keys_it_is_torchs_dropout() -> None:
    x = torch.ones(2, 5, 7)
    torch.manual_seed(3)
    expected = F.dropout(x, 0.4)
    torch.manual_seed(3)
    assert torch.equal(token_dropout(x, 0.4, None, 0), expected)


def test_a_layer_that_sees_some_tokens_only_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"lora.dropout.*exclude_modules"):
        token_dropout(torch.ones(5, 8), 0.5, keys(), 0)


def test_layers_of_an_adapter_have_masks_of_their_own_and_evaluation_has_none() -> None:
    adapter = tiny.randomise(attach(tiny.llama(), r=2, dropout=0.5))
    assert len({layer.dropout_salt for layer in adapter.layers.values()}) == len(adapter.layers)
    adapter.token_keys.keys = keys()[:9]
    ids = tiny.tokens()
    first = tiny.logits(adapter.model, ids)
    assert torch.equal(tiny.logits(adapter.model, ids), first)
    adapter.token_keys.keys = keys(step=1)[:9]
    assert not torch.equal(tiny.logits(adapter.model, ids), first)
    evaluated = tiny.logits(adapter.eval().model, ids)
    adapter.token_keys.keys = None
    assert torch.equal(tiny.logits(adapter.model, ids), evaluated)
