"""Where adapters start: statistics, PEFT's factors, the base's own output, independence of what else is adapted."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

import tiny_models as tiny
from lorica.lora import attach, load_adapter
from lorica.lora.attach import attach as attach_plain
from lorica.lora.layer import LoraLayer


class Wide(nn.Module):
    """One layer, wide enough for statistics."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.proj = nn.Linear(400, 300, bias=False)
        self.table = nn.Embedding(500, 70)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)


def started(kind: Any, module: str = "proj", **fields: Any) -> LoraLayer:
    adapter = attach_plain(Wide(), r=16, alpha=24, target_modules=[module], init_lora_weights=kind, **fields)
    return adapter.layers[module]


def test_kaiming_start() -> None:
    layer = started(True)
    a = layer.lora_A.detach()
    bound = 400**-0.5  # sqrt(6 / ((1 + 5) * inputs)), as nn.Linear
    assert a.abs().max() <= bound and a.abs().max() > 0.99 * bound
    assert abs(a.mean()) < 4 * bound / (3 * a.numel()) ** 0.5
    assert a.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    assert not layer.lora_B.detach().any()


def test_gaussian_start() -> None:
    layer = started("gaussian")
    a = layer.lora_A.detach() * 16
    assert abs(a.mean()) < 4 / a.numel() ** 0.5 and a.std() == pytest.approx(1, rel=0.05)
    assert a.pow(4).mean() == pytest.approx(3, rel=0.15)  # kurtosis of a normal, 1.8 for a uniform
    assert not layer.lora_B.detach().any()


def test_embeddings_start_with_a_zero_a_and_a_normal_b_as_in_peft() -> None:
    layer = started(True, "table")
    assert not layer.lora_A.detach().any()
    assert layer.lora_B.detach().std() == pytest.approx(1, rel=0.1)


def test_false_starts_away_from_zero() -> None:
    layer = started(False)
    assert layer.lora_A.detach().std() > 0 and layer.lora_B.detach().std() > 0


@pytest.mark.parametrize("kind", ["pissa", "olora", "pissa_niter_16"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_factors_are_those_of_peft(kind: str, rslora: bool) -> None:
    fields = {"r": 5, "lora_alpha": 15, "target_modules": "all-linear", "use_rslora": rslora}
    model = tiny.llama()
    for parameter in model.model.layers.parameters():
        if parameter.ndim == 2:  # singular values that fall as in a trained model; PEFT's fast SVD needs that
            u, s, v = torch.linalg.svd(parameter.data, full_matrices=False)
            parameter.data = u * (s * 0.6 ** torch.arange(len(s))) @ v
    adapter = attach(copy.deepcopy(model), init_lora_weights=kind, **fields)
    twin = tiny.peft_twin(model, init_lora_weights=kind, **fields)
    for name, layer in adapter.layers.items():
        theirs = twin.base_model.model.get_submodule(name)
        expected = theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight
        found = layer.lora_B[0] @ layer.lora_A[0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert layer.scale == theirs.scaling["default"]


@pytest.mark.parametrize("kind", ["pissa", "olora", "pissa_niter_4"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_a_start_inside_the_weight_leaves_the_base_alone_and_is_saved_as_plain_lora(
    kind: str, make: Any, tmp_path: Path
) -> None:
    model = make()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fields = {"r": 5, "alpha": 15, "use_rslora": make is tiny.llama, "rank_pattern": {r".*\.1\..*c_proj|up_proj": 3}}
    expected = tiny.logits(model, tiny.tokens())
    adapter = attach(model, init_lora_weights=kind, target_modules="all-linear", **fields)
    assert all(torch.equal(before[name.replace(".base", "")], p) for name, p in base_parameters(model).items())
    torch.testing.assert_close(tiny.logits(model, tiny.tokens()), expected, rtol=1e-5, atol=1e-5)
    tiny.randomise(adapter, 0.02).save(tmp_path)
    trained = tiny.logits(model, tiny.tokens())
    assert (trained - expected).abs().max() > 1e-2
    theirs = PeftModel.from_pretrained(make(), tmp_path).eval()
    assert {config.init_lora_weights for config in theirs.peft_config.values()} == {True}
    torch.testing.assert_close(tiny.logits(theirs, tiny.tokens()), trained, rtol=1e-4, atol=1e-4)
    again = attach(make(), init_lora_weights=kind, target_modules="all-linear", **fields, seed=9)
    again.load(tmp_path)
    torch.testing.assert_close(tiny.logits(again.model, tiny.tokens()), trained, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(again.state()[name], tensor) for name, tensor in adapter.state().items())


def base_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" not in name}


@pytest.mark.parametrize("kind", ["pissa", "olora", "pissa_niter_4"])
def test_a_rank_beyond_the_weights_is_an_error(kind: str) -> None:
    model = tiny.llama()
    with pytest.raises(ValueError, match=r"rank 13 is more than the 12 directions.*rank_pattern"):
        attach(model, r=13, init_lora_weights=kind, target_modules=["q_proj", "k_proj"])
    attach(model, r=12, init_lora_weights=kind, target_modules=["q_proj", "k_proj"])  # nothing was left behind


def test_a_layers_start_depends_on_its_name_and_the_seed_only() -> None:
    everything = attach(tiny.llama(), r=4, target_modules="all-linear", seed=5)
    one = attach(tiny.llama(), r=4, target_modules=["layers.1.mlp.up_proj"], seed=5)
    name = "model.layers.1.mlp.up_proj"
    assert torch.equal(everything.layers[name].lora_A, one.layers[name].lora_A)
    other_seed = attach(tiny.llama(), r=4, target_modules=["layers.1.mlp.up_proj"], seed=6)
    assert not torch.equal(one.layers[name].lora_A, other_seed.layers[name].lora_A)
    starts = [tuple(layer.lora_A.flatten()[:4].tolist()) for layer in everything.layers.values()]
    assert len(set(starts)) == len(starts)


def test_attaching_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    for kind in (True, "gaussian", "pissa_niter_2"):
        attach(tiny.llama(), r=4, init_lora_weights=kind)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_lane_starts_as_a_lone_adapter_with_the_next_seed() -> None:
    lanes = attach(tiny.llama(), r=4, target_modules=["q_proj"], lanes=3, seed=10)
    for lane in range(3):
        lone = attach(tiny.llama(), r=4, target_modules=["q_proj"], seed=10 + lane)
        for name, layer in lone.layers.items():
            assert torch.equal(lanes.layers[name].lora_A[lane], layer.lora_A[0])


@pytest.mark.parametrize("kind", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_saved_is_pefts_own_conversion(kind: str, rslora: bool, tmp_path: Path) -> None:
    """PEFT changes the base while it trains such an adapter, and converts it when it is saved; ours is plain from the
    beginning. From the same factors and the same training both files hold the same."""
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 14, "use_rslora": rslora, "target_modules": "all-linear"}
    twin = tiny.peft_twin(tiny.llama(), init_lora_weights=kind, **fields)
    adapter = attach(tiny.llama(), init_lora_weights=kind, **fields)
    for name, layer in adapter.layers.items():
        theirs = twin.base_model.model.get_submodule(name)
        for ours, start, weight in (
            (layer.lora_A, layer.start_A, theirs.lora_A["default"].weight),
            (layer.lora_B, layer.start_B, theirs.lora_B["default"].weight),
        ):
            assert start is not None
            ours.data[0], start[0] = weight.data, weight.data  # theirs may have other signs
    twin.peft_config["default"].init_lora_weights = True  # else PEFT would start anew at the next line
    twin.save_pretrained(tmp_path / "start")
    twin.peft_config["default"].init_lora_weights = kind
    generator = torch.Generator().manual_seed(5)
    for name, layer in adapter.layers.items():
        theirs = twin.base_model.model.get_submodule(name)
        for ours, weight in (
            (layer.lora_A, theirs.lora_A["default"].weight),
            (layer.lora_B, theirs.lora_B["default"].weight),
        ):
            step = 0.02 * torch.randn(weight.shape, generator=generator)
            weight.data += step
            ours.data[0] += step
    trained = tiny.logits(twin, tiny.tokens())
    twin.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    adapter.eval().save(tmp_path / "ours")
    torch.testing.assert_close(tiny.logits(adapter.model, tiny.tokens()), trained, rtol=1e-4, atol=1e-4)
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for key in ours:
        if key.endswith("lora_A.weight"):
            other = key.replace("lora_A", "lora_B")
            torch.testing.assert_close(ours[other] @ ours[key], theirs[other] @ theirs[key], rtol=1e-4, atol=1e-5)
    for who in ("ours", "theirs"):
        again = load_adapter(tiny.llama(), tmp_path / who).eval()
        assert {layer.r for layer in again.layers.values()} == {8}
        torch.testing.assert_close(tiny.logits(again.model, tiny.tokens()), trained, rtol=1e-4, atol=1e-4)
