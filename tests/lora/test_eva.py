"""EVA's start against a decomposition of all activations in float64, and against PEFT's own EVA."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.eva import get_eva_state_dict
from torch import Tensor

import lorica
import tiny_models as tiny
from bases import sums, write_base, write_rows
from lorica.lora import Lane, Tokens, attach, load_adapter
from lorica.lora.activations import PrincipalDirections
from lorica.lora.adapter import Adapter
from lorica.quant import codec, pack_model

FIELDS: dict[str, Any] = {"r": 5, "alpha": 17, "rank_pattern": {"up_proj": 3}}


def sample(rows: int = 12, length: int = 11) -> list[Tokens]:
    """One row each, of which the last six tokens count."""
    ids = tiny.tokens(rows, length, seed=4)
    chosen = torch.arange(length - 6, length)
    return [Tokens(row[None], torch.arange(length)[None], chosen) for row in ids]


def activations(model: Any, parts: list[Tokens]) -> dict[str, Tensor]:
    """What each linear layer is given at the chosen places, all of it in memory, by module."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":

            def hear(_: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
                seen.setdefault(name, []).append(inputs[0][0])

            handles.append(module.register_forward_pre_hook(hear))
    with torch.no_grad():
        for part in parts:
            model(input_ids=part.input_ids)
    for handle in handles:
        handle.remove()
    return {name: torch.cat([x[p.chosen] for x, p in zip(xs, parts, strict=True)]) for name, xs in seen.items()}


def by_definition(rows: Tensor, rank: int) -> Tensor:
    centred = rows.double() - rows.double().mean(0)
    return torch.linalg.svd(centred, full_matrices=False).Vh[:rank]


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Of the principal angles between two row spaces of orthonormal rows."""
    return torch.linalg.svdvals(first.double() @ second.double().t())


def begun(model: Any, **fields: Any) -> Adapter:
    return attach(model, init_lora_weights="eva", sample=sample(), **FIELDS | fields)


def test_a_is_the_principal_directions_of_the_inputs() -> None:
    model = tiny.llama()
    seen = activations(model, sample())
    adapter = begun(model)
    for name, layer in adapter.layers.items():
        rank = 3 if "up_proj" in name else 5
        expected = by_definition(seen[name], rank)
        found = layer.lora_A[0, :rank].double()
        torch.testing.assert_close((found * expected).sum(1).abs(), torch.ones(rank, dtype=torch.float64))
        assert not layer.lora_B.any()
        assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_its_directions_are_those_of_peft() -> None:
    """PEFT goes round and round the batches until directions stop turning; here it has one batch of all rows."""
    model = tiny.llama()
    ids = torch.cat([part.input_ids for part in sample()])
    labels = ids.clone()
    labels[:, :5] = -100
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}]
    config = LoraConfig(r=5, target_modules="all-linear", init_lora_weights="eva", eva_config=EvaConfig(rho=1.0))
    twin = get_peft_model(copy.deepcopy(model), config)
    theirs = get_eva_state_dict(twin, batches, show_progress_bar=False)
    adapter = begun(model, rank_pattern={})
    assert len(theirs) == len(adapter.layers)
    for name, layer in adapter.layers.items():
        vectors = next(value for key, value in theirs.items() if name in key)
        # PEFT's decomposition is a randomised one.
        assert cosines(layer.lora_A[0], vectors).min() > 0.99, name
        assert cosines(layer.lora_A[0], vectors).mean() > 0.999, name


def test_gathering_in_parts_forgets_little() -> None:
    """Five directions stand out of three hundred features; of 37 rows at a time, forty directions are kept."""
    generator = torch.Generator().manual_seed(2)
    scales = 0.8 ** torch.arange(300) + 0.003
    rows = torch.randn(1000, 300, generator=generator) * scales @ torch.linalg.qr(
        torch.randn(300, 300, generator=generator)
    ).Q + torch.randn(300, generator=generator)
    gathered = PrincipalDirections(40)
    for part in rows.split(37):
        gathered.update(part)
    values, found = gathered.leading(5)
    whole = torch.linalg.svd(rows.double() - rows.double().mean(0), full_matrices=False)
    assert cosines(found, whole.Vh[:5]).min() > 1 - 1e-6
    torch.testing.assert_close(values.double(), whole.S[:5], rtol=1e-4, atol=0)
    assert gathered.scaled.shape == (40, 300) and gathered.count == 1000


def test_a_slow_fall_of_values_is_followed_too() -> None:
    """Thirty-two directions of 300 whose values fall as 1 / sqrt(i), so that none stands out."""
    generator = torch.Generator().manual_seed(3)
    turned = torch.linalg.qr(torch.randn(300, 300, generator=generator)).Q
    rows = torch.randn(4000, 300, generator=generator) * (1.0 + torch.arange(300)).rsqrt() @ turned
    gathered = PrincipalDirections(128)
    for part in rows.split(500):
        gathered.update(part)
    found = gathered.leading(32)[1].double()
    centred = rows.double() - rows.double().mean(0)
    best = torch.linalg.svdvals(centred)[:32].square().sum()
    assert (centred @ found.t()).square().sum() > 0.999 * best
    torch.testing.assert_close(found @ found.t(), torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-5)


def test_layers_of_one_input_share_what_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = []
    update = PrincipalDirections.update
    monkeypatch.setattr(PrincipalDirections, "update", lambda self, rows: (updates.append(rows), update(self, rows)))
    adapter = begun(tiny.llama())
    layers = adapter.layers
    assert len(updates) == 12 * 2 * 4  # rows, layers, and the inputs of q k v, o, gate up, down
    attention = "model.layers.1.self_attn"
    assert torch.equal(layers[f"{attention}.q_proj"].lora_A, layers[f"{attention}.v_proj"].lora_A)


def test_it_is_the_same_every_time_and_leaves_the_function_alone() -> None:
    model = tiny.llama()
    before = tiny.logits(model, tiny.tokens())
    first, second = begun(model), begun(tiny.llama(), seed=9)
    assert torch.equal(tiny.logits(model, tiny.tokens()), before)
    assert all(torch.equal(first.layers[name].lora_A, layer.lora_A) for name, layer in second.layers.items())
    assert not any(layer._forward_pre_hooks for layer in first.layers.values())


def test_with_lanes_dora_and_packed_weights() -> None:
    alone = begun(tiny.llama())
    lanes = [Lane(alone.config), Lane(alone.config.model_copy(update={"r": 2, "alpha": 3.0}), 4)]
    together = attach(tiny.llama(), lanes=lanes, sample=sample())
    for name, layer in together.layers.items():
        assert torch.equal(layer.lora_A[0], alone.layers[name].lora_A[0])
        assert torch.equal(layer.lora_A[1, :2], layer.lora_A[0, :2]) and not layer.lora_A[1, 3:].any()
    dora = begun(tiny.llama(), use_dora=True)
    torch.testing.assert_close(tiny.logits(dora.model, tiny.tokens()), tiny.logits(tiny.llama(), tiny.tokens()))
    model = tiny.llama(hidden_size=64, intermediate_size=128)
    pack_model(model, codec("NF4"), skip=["lm_head", "embed_tokens"])
    assert all(layer.lora_A.any() for layer in begun(model).layers.values())


def test_the_head_hears_too_and_other_targets_only() -> None:
    adapter = begun(tiny.llama(), target_modules=["lm_head", "v_proj"], exclude_modules=r".*\.0\..*", rank_pattern={})
    assert sorted(adapter.layers) == ["lm_head", "model.layers.1.self_attn.v_proj"]
    assert torch.linalg.matrix_rank(adapter.layers["lm_head"].lora_A[0]) == 5


def test_what_hears_nothing_starts_plainly() -> None:
    model = tiny.llama()
    model.tower = torch.nn.Linear(9, 7)
    adapter = begun(model)
    plain = attach(copy.deepcopy(adapter.detach()), **FIELDS)
    again = begun(model)
    assert torch.equal(again.layers["tower"].lora_A, plain.layers["tower"].lora_A)
    assert any("1 modules saw none of EVA's sample" in note and "tower" in note for note in again.notes)


def test_what_it_cannot_start_from_is_refused() -> None:
    model = tiny.llama()
    with pytest.raises(ValueError, match=r"eva starts from what rows do.*sample"):
        attach(model, init_lora_weights="eva")
    with pytest.raises(ValueError, match="embed_tokens is an embedding"):
        begun(model, target_modules=["embed_tokens", "q_proj"], rank_pattern={})
    with pytest.raises(ValueError, match=r"vary in [0-9]+ directions over the 12 tokens.*smaller lora\.r"):
        attach(model, init_lora_weights="eva", r=12, sample=sample()[:2])
    with pytest.raises(ValueError, match="no token that counts"):
        attach(model, init_lora_weights="eva", r=2, sample=[])
    attach(model)  # nothing was left behind


def test_a_run_begins_so_whatever_the_microbatches(tmp_path: Path) -> None:
    base, rows = write_base(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", sums())
    saved = {}
    for capacity in (40, 400):
        out = tmp_path / str(capacity)
        lorica.train(
            model=str(base),
            data=str(rows),
            out=str(out),
            lora={"r": 4, "alpha": 9, "init_lora_weights": "eva"},
            train={"steps": 2, "batch_size": 4, "lr": 1e-9},
            evaluate={"enabled": False},
            system={"threads": 1, "tokens_per_microbatch": capacity, "checkpointing": "none"},
        )
        adapter = load_adapter(lorica.load(base), out / "adapter")
        saved[capacity] = {name: layer.lora_A.detach() for name, layer in adapter.layers.items()}
        assert json.loads((out / "adapter" / "adapter_config.json").read_text())["init_lora_weights"] is True
    for name, found in saved[40].items():
        torch.testing.assert_close(found, saved[400][name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[0] @ found[0].t(), torch.eye(4), rtol=0, atol=1e-5)
