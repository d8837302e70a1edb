"""LoftQ's start on packed bases, against its definition in float64, and what becomes of an adapter that began so."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models as tiny
from lorica.adapters import merge_adapters, resize_adapter
from lorica.exporting.changes import read_changes
from lorica.exporting.skeleton import Skeleton
from lorica.lora import Lane, attach, load_adapter
from lorica.lora.leading import leading_directions
from lorica.lora.weights import is_packed
from lorica.models import Base, load
from lorica.models.directory import read_config
from lorica.models.skeleton import empty_model
from lorica.quant import codec, pack_model

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
FIELDS: dict[str, Any] = {"r": 5, "alpha": 17, "rank_pattern": {"up_proj": 3}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.llama(**SIZES).save_pretrained(tmp_path / "base")
    tiny.word_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def packed(folder: Path, weights: str = "nf4") -> Base:
    return load(folder, device="cpu", dtype="fp32", weights=weights)


def dense(folder: Path) -> Any:
    return load(folder, device="cpu", dtype="fp32").model


def by_definition(weight: Tensor, type: str, rank: int) -> Tensor:
    """SVD_r(W - unpack(pack(W))) in float64."""
    error = weight.double() - codec(type).unpack(codec(type).pack(weight)).double()
    u, s, vt = torch.linalg.svd(error)
    return u[:, :rank] @ torch.diag(s[:rank]) @ vt[:rank]


@pytest.mark.parametrize(("weights", "type"), [("nf4", "NF4"), ("q8_0", "Q8_0"), ("q4_0", "Q4_0")])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_start_is_the_leading_part_of_what_packing_lost(
    folder: Path, weights: str, type: str, rslora: bool
) -> None:
    originals = dense(folder)
    adapter = attach(packed(folder, weights), init_lora_weights="loftq", use_rslora=rslora, **FIELDS)
    for name, layer in adapter.layers.items():
        weight = originals.get_parameter(f"{name}.weight")
        rank = 3 if "up_proj" in name else 5
        expected = by_definition(weight, type, rank)
        found = layer.delta().double()
        assert (found - expected).norm() < 1e-5 * expected.norm(), name
        assert layer.start_A is None and layer.strengths[0].r == rank
        torch.testing.assert_close(layer.lora_A[0, :rank].norm(), layer.lora_B[0, :, :rank].norm())


def test_the_start_is_nearer_to_the_dense_model_and_the_base_is_as_packed(folder: Path) -> None:
    ids = tiny.tokens()
    wanted, plain = tiny.logits(dense(folder), ids), tiny.logits(packed(folder).model, ids)
    base = packed(folder)
    adapter = attach(base, init_lora_weights="loftq", r=16, alpha=40).eval()
    begun = tiny.logits(base.model, ids)
    assert (begun - wanted).norm() < 0.75 * (plain - wanted).norm()
    with adapter.disable():
        assert torch.equal(tiny.logits(base.model, ids), plain)
    assert base.hashes == packed(folder).hashes


def test_with_every_rank_the_start_is_the_dense_model(folder: Path) -> None:
    base = packed(folder)
    attach(base, init_lora_weights="loftq", r=32, target_modules=["k_proj", "v_proj"], alpha=3).eval()
    model = dense(folder)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(("k_proj", "v_proj", "lm_head")):
            module.weight.data = codec("NF4").unpack(codec("NF4").pack(module.weight.data))
    torch.testing.assert_close(tiny.logits(base.model, tiny.tokens()), tiny.logits(model, tiny.tokens()))


def test_dora_begins_with_the_norms_of_base_and_start(folder: Path) -> None:
    base, dora = packed(folder), packed(folder)
    attach(base, init_lora_weights="loftq", **FIELDS).eval()
    attach(dora, init_lora_weights="loftq", use_dora=True, **FIELDS).eval()
    torch.testing.assert_close(tiny.logits(dora.model, tiny.tokens()), tiny.logits(base.model, tiny.tokens()))


def test_lanes_begin_as_they_would_alone(folder: Path) -> None:
    alone = attach(packed(folder), init_lora_weights="loftq", r=3, alpha=4)
    lanes = [Lane(alone.config.model_copy(update={"r": r, "alpha": 9.0})) for r in (5, 2)] + [Lane(alone.config)]
    together = attach(packed(folder), lanes=lanes)
    for name, layer in together.layers.items():
        torch.testing.assert_close(layer.lora_A[2, :3], alone.layers[name].lora_A[0])
        torch.testing.assert_close(layer.lora_B[2, :, :3], alone.layers[name].lora_B[0])
        assert not layer.lora_A[1, 2:].any()


def test_what_packing_keeps_exactly_still_learns(folder: Path) -> None:
    """A pair of zeros has a gradient of zero, so layers without an error begin plainly."""
    model = tiny.llama(**SIZES)
    exact = codec("Q8_0")
    for parameter in model.model.layers.parameters():
        if parameter.ndim == 2:
            parameter.data = exact.unpack(exact.pack(parameter.data))
    model.save_pretrained(folder)
    base = packed(folder, "q8_0")
    adapter = attach(
        base, init_lora_weights="loftq", target_modules=["q_proj", "down_proj"], **FIELDS | {"rank_pattern": {}}
    )
    assert all(layer.lora_A.all() for layer in adapter.layers.values())
    base.model(input_ids=tiny.tokens()).logits.square().sum().backward()
    assert adapter.without_gradient() == []


def test_modules_that_stay_dense_begin_plainly(folder: Path) -> None:
    base = packed(folder)
    adapter = attach(base, init_lora_weights="loftq", target_modules=["lm_head", "v_proj"], r=4)
    assert not is_packed(adapter.layers["lm_head"].base)
    assert not adapter.layers["lm_head"].lora_B.any()
    assert adapter.layers["model.layers.0.self_attn.v_proj"].lora_B.any()


def test_embeddings_and_tied_heads(folder: Path) -> None:
    model = tiny.llama(**SIZES, tie_word_embeddings=True)
    model.save_pretrained(folder)
    base = packed(folder, "q4_0")
    names = ["embed_tokens", "lm_head"]
    adapter = attach(base, init_lora_weights="loftq", target_modules=names, r=3, alpha=7)
    table = model.get_input_embeddings().weight
    type = base.model.get_input_embeddings().base.matrix.codec.name
    expected = by_definition(table, type, 3)
    torch.testing.assert_close(adapter.layers["lm_head"].delta().double(), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        adapter.layers["model.embed_tokens"].delta().double(), expected.t(), rtol=1e-4, atol=1e-7
    )


def test_it_is_saved_as_plain_lora_for_the_packed_base(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    base = packed(folder)
    adapter = tiny.randomise(attach(base, init_lora_weights="loftq", **FIELDS), 0.02).eval()
    adapter.save(tmp_path / "saved")
    trained = tiny.logits(base.model, tiny.tokens())
    again = packed(folder)
    load_adapter(again, tmp_path / "saved").eval()
    assert torch.equal(tiny.logits(again.model, tiny.tokens()), trained)
    model = dense(folder)
    for name in adapter.layers:
        weight = model.get_submodule(name).weight
        weight.data = codec("NF4").unpack(codec("NF4").pack(weight.data))
    theirs = PeftModel.from_pretrained(model, tmp_path / "saved").eval()
    torch.testing.assert_close(tiny.logits(theirs, tiny.tokens()), trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["as-is", "q8_0"])
def test_on_another_packing_it_is_refused(folder: Path, tmp_path: Path, weights: str) -> None:
    attach(packed(folder), init_lora_weights="loftq", **FIELDS).save(tmp_path / "saved")
    resize_adapter(tmp_path / "saved", tmp_path / "smaller", rank=2)  # what it belongs to stays with it
    for saved in ("saved", "smaller"):
        with pytest.raises(ValueError, match=rf"packing the base as nf4 lost.*this base is {weights}.*weights=nf4"):
            load_adapter(packed(folder, weights), tmp_path / saved)
    load_adapter(packed(folder, weights), tmp_path / "saved", allow_other_base=True)


def test_a_merge_is_into_the_packed_weights(folder: Path, tmp_path: Path) -> None:
    """Into the dense ones, what packing lost would be added to weights that never lost it."""
    base = packed(folder)
    adapter = tiny.randomise(attach(base, init_lora_weights="loftq", **FIELDS), 0.02)
    adapter.save(tmp_path)
    bones = Skeleton(empty_model(read_config(folder), torch.float32), str(folder), {"base": base.hashes["base"]})
    changes = read_changes(bones, tmp_path).by_parameter
    originals = dense(folder)
    for name, layer in adapter.layers.items():
        merged = changes[f"{name}.weight"].apply(originals.get_parameter(f"{name}.weight").data)
        torch.testing.assert_close(merged, layer.base.matrix.dense() + layer.delta())


def test_without_the_weights_from_before_it_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no adapted module of this base is packed.*model\.weights"):
        attach(load(folder, device="cpu", dtype="fp32"), init_lora_weights="loftq")
    model = copy.deepcopy(tiny.llama(**SIZES))
    pack_model(model, codec("NF4"), skip=["lm_head", "embed_tokens"])
    with pytest.raises(ValueError, match=r"packed already.*Give the 16-bit model"):
        attach(model, init_lora_weights="loftq")
    attach(model)  # nothing was left behind


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (12, 12), (1, 9), (9, 1)])
def test_leading_directions_are_those_of_the_whole_decomposition(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    u, s, vt = leading_directions(matrix, 4)
    rank = min(4, *shape)
    wanted = torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close(s, wanted.S[:rank])
    torch.testing.assert_close(u * s @ vt, wanted.U[:, :rank] * wanted.S[:rank] @ wanted.Vh[:rank])
    torch.testing.assert_close(u.t() @ u, torch.eye(rank, dtype=torch.float64))


def test_merged_with_each_other_the_error_is_made_up_for_once(folder: Path, tmp_path: Path) -> None:
    for number in range(2):
        adapter = attach(packed(folder), init_lora_weights="loftq", **FIELDS)
        tiny.randomise(adapter, 0.01 * (number + 1)).save(tmp_path / str(number))
    attach(packed(folder), **FIELDS).save(tmp_path / "plain")
    pair = [tmp_path / "0", tmp_path / "1"]
    merge_adapters(pair, tmp_path / "both", [0.3, 0.7])
    both, alone = (load_adapter(packed(folder), tmp_path / name) for name in ("both", "1"))
    start = attach(packed(folder), init_lora_weights="loftq", **FIELDS)
    for name, layer in both.layers.items():
        rest = layer.delta() - start.layers[name].delta()
        assert rest.norm() < 1.1 * (alone.layers[name].delta() - start.layers[name].delta()).norm()
    for folders, options in (
        (pair, {"weights": [1.0, 1.0]}),
        (pair, {"method": "ties"}),
        ([tmp_path / "0", tmp_path / "plain"], {}),
    ):
        with pytest.raises(ValueError, match="a sum has to hold it once"):
            merge_adapters(folders, tmp_path / "wrong", **options)
    assert not (tmp_path / "wrong").exists()
