"""Several adapters in one pass over one base: each lane is what it would be alone."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models as tiny
from lorica.config import LoraConfig
from lorica.lora import Adapter, Lane, attach, load_adapter
from lorica.lora.dropout import token_keys

CASES: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": "all-linear"},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "dora on the embedding": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "dropout": {"target_modules": "all-linear", "dropout": 0.3},
    "pissa": {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"},
}
LANES, LENGTH = 3, 7


def three_lanes(fields: dict[str, Any], make: Any = tiny.llama) -> tuple[Adapter, list[Adapter]]:
    """One adapter of three lanes, and three lone ones with the same values."""
    lanes = tiny.randomise(attach(make(), r=3, alpha=7, lanes=LANES, **fields), 0.05)
    lone = [attach(make(), r=3, alpha=7, seed=lane, **fields) for lane in range(LANES)]
    for lane, adapter in enumerate(lone):
        for name, tensor in adapter.state().items():
            tensor.copy_(lanes.state()[name][lane : lane + 1])
    return lanes, lone


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
def test_three_lanes_are_three_adapters(fields: dict[str, Any], make: Any) -> None:
    lanes, lone = three_lanes(fields, partial(make, tie_word_embeddings=False))
    ids = tiny.tokens(LANES, LENGTH)
    keys = token_keys(1, 2, torch.full((LENGTH,), 5), torch.arange(LENGTH))
    for adapter in (lanes, *lone):
        adapter.token_keys.keys = keys
    found = lanes.model(input_ids=ids, use_cache=False).logits
    found.square().sum().backward()
    for lane, adapter in enumerate(lone):
        expected = adapter.model(input_ids=ids[lane : lane + 1], use_cache=False).logits
        torch.testing.assert_close(found[lane : lane + 1], expected, rtol=1e-5, atol=1e-5)
        expected.square().sum().backward()
        for name, parameter in adapter.named_parameters().items():
            gradient = lanes.named_parameters()[name].grad[lane : lane + 1]
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_one_lane_is_saved_and_loaded_alone(fields: dict[str, Any], tmp_path: Path) -> None:
    lanes, lone = three_lanes(fields)
    lanes.save(tmp_path, lane=1)
    lone[1].save(tmp_path / "lone")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "lone" / name).read_bytes()
    before = {name: tensor.clone() for name, tensor in lanes.state().items()}
    lanes.load(tmp_path, lane=2)
    for name, tensor in lanes.state().items():
        assert torch.equal(tensor[:2], before[name][:2]) and torch.equal(tensor[2], before[name][1])
    loaded = load_adapter(tiny.llama(), tmp_path).eval().model
    torch.testing.assert_close(
        tiny.logits(loaded, tiny.tokens()), tiny.logits(lone[1].eval().model, tiny.tokens()), rtol=1e-4, atol=1e-5
    )


def test_trainable_parameters_are_counted_for_one_lane() -> None:
    lanes, lone = three_lanes(CASES["dora"])
    assert lanes.trainable_parameters() == lone[0].trainable_parameters()


@pytest.mark.parametrize("fields", [CASES["linear"], CASES["embedding and head"]], ids=["linear", "embedding"])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_a_batch_that_has_not_one_row_a_lane_is_an_error(fields: dict[str, Any], rows: int) -> None:
    lanes, _ = three_lanes(fields)
    with pytest.raises(ValueError, match=f"first axis is 3.*{rows}"):
        tiny.logits(lanes.model, tiny.tokens(rows))


def test_what_has_one_lane_only_says_so() -> None:
    for fields in ({"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1]}):
        with pytest.raises(ValueError, match=r"several lanes and lora\..* cannot be combined.*one such run at a time"):
            attach(tiny.llama(), r=2, lanes=2, **fields)
    for none in (0, []):
        with pytest.raises(ValueError, match="at least one"):
            attach(tiny.llama(), lanes=none)


@pytest.mark.parametrize("lane", [-1, 3])
def test_a_lane_that_does_not_exist_is_an_error(lane: int, tmp_path: Path) -> None:
    lanes, _ = three_lanes(CASES["linear"])
    for action in (lambda: lanes.merge(lane), lambda: lanes.save(tmp_path, lane), lambda: lanes.load(tmp_path, lane)):
        with pytest.raises(ValueError, match=f"lane {lane} does not exist"):
            action()


DIFFERING = [
    Lane(LoraConfig(r=3, alpha=7, target_modules="all-linear"), seed=4),
    Lane(LoraConfig(r=5, alpha=2, target_modules="all-linear", rank_pattern={"up_proj": 1}), seed=4),
    Lane(LoraConfig(r=2, alpha=7, target_modules="all-linear", use_rslora=True), seed=9),
]


@pytest.mark.parametrize("start", [True, "pissa"])
def test_lanes_of_other_ranks_scales_and_seeds(start: Any, tmp_path: Path) -> None:
    """Each lane starts, computes, learns and is saved as it would be alone; what pads its rank stays zero."""
    cases = [Lane(lane.config.model_copy(update={"init_lora_weights": start}), lane.seed) for lane in DIFFERING]
    lanes, ids = attach(tiny.llama(), lanes=cases), tiny.tokens(LANES, LENGTH)
    optimiser = torch.optim.AdamW(lanes.parameters(), lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        lanes.model(input_ids=ids, use_cache=False).logits.square().mean((1, 2)).sum().backward()
        optimiser.step()
    found = tiny.logits(lanes.model, ids)
    for number, lane in enumerate(cases):
        alone = attach(tiny.llama(), lane.config, seed=lane.seed)
        own = torch.optim.AdamW(alone.parameters(), lr=0.05)
        for _ in range(3):
            own.zero_grad()
            alone.model(input_ids=ids[number : number + 1], use_cache=False).logits.square().mean().backward()
            own.step()
        expected = tiny.logits(alone.model, ids[number : number + 1])
        torch.testing.assert_close(found[number : number + 1], expected, rtol=1e-4, atol=1e-4)
        lanes.save(tmp_path / f"{number}", lane=number)
        alone.save(tmp_path / f"alone-{number}")
        configs = [(tmp_path / name / "adapter_config.json").read_text() for name in (f"{number}", f"alone-{number}")]
        assert configs[0] == configs[1]
        loaded = load_adapter(tiny.llama(), tmp_path / f"{number}").eval().model
        torch.testing.assert_close(tiny.logits(loaded, ids[number : number + 1]), expected, rtol=1e-4, atol=1e-4)
    for layer in lanes.layers.values():
        for number, strength in enumerate(layer.strengths):
            assert not layer.lora_A[number, strength.r :].any() and not layer.lora_B[number, :, strength.r :].any()


def test_lanes_that_cannot_share_a_pass() -> None:
    for other, named in (({"dropout": 0.1}, "dropout"), ({"target_modules": ["q_proj"]}, "target_modules")):
        lanes = [DIFFERING[0], Lane(DIFFERING[0].config.model_copy(update=other))]
        with pytest.raises(ValueError, match=rf"lanes 0 and 1 differ in lora\.{named}"):
            attach(tiny.llama(), lanes=lanes)
    with pytest.raises(ValueError, match="not both"):
        attach(tiny.llama(), lanes=DIFFERING, r=3)
