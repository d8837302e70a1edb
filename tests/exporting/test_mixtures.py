"""Mixtures against files that llama.cpp quantised."""

from pathlib import Path

import pytest
from gguf import GGUFReader

from lorica.quant.mixtures import MIXTURES, Model, mixture, tensor_types, wanted_types


def golden(shared: Path, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    reader = GGUFReader(shared / "golden" / "gguf" / f"tiny-llama-{name}.gguf")
    return {t.name: (t.tensor_type.name, tuple(int(n) for n in reversed(t.shape))) for t in reader.tensors}


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M"])
def test_the_golden_files(shared: Path, name: str) -> None:
    shapes = {tensor: shape for tensor, (_, shape) in golden(shared, "f32").items()}
    expected = {tensor: kind for tensor, (kind, _) in golden(shared, name).items() if kind != "F32"}
    assert tensor_types(name, shapes, Model(layers=2, heads=8, key_heads=4)) == expected
    assert len(expected) == 16


def layers(count: int, columns: int = 256, tied: bool = False) -> dict[str, tuple[int, ...]]:
    stems = {"attn_v": (64, columns), "attn_output": (256, columns), "ffn_down": (256, columns), "attn_norm": (256,)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (300, columns)}
    for layer in reversed(range(count)):  # the order in the file does not matter
        shapes |= {f"blk.{layer}.{stem}.weight": shape for stem, shape in stems.items()}
    return shapes if tied else shapes | {"output.weight": (300, columns)}


def by_layer(types: dict[str, str], stem: str, kind: str) -> list[int]:
    return sorted(int(name.split(".")[1]) for name, found in types.items() if f".{stem}." in name and found == kind)


def test_a_model_of_32_layers() -> None:
    """The layers that the study of llama.cpp's source names."""
    model = Model(layers=32, heads=32, key_heads=8)
    types = tensor_types("Q4_K_M", layers(32), model)
    expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert by_layer(types, "attn_v", "Q6_K") == by_layer(types, "ffn_down", "Q6_K") == expected
    assert not [name for name in types if "norm" in name]
    small = tensor_types("Q3_K_M", layers(32), model)
    assert by_layer(small, "attn_v", "Q5_K") == by_layer(small, "ffn_down", "Q5_K") == [0, 1]
    assert set(by_layer(small, "attn_output", "Q4_K")) == set(range(32))
    assert by_layer(tensor_types("Q2_K", layers(32), model), "attn_v", "Q4_K") == list(range(32))
    assert by_layer(tensor_types("Q2_K", layers(32), Model(32, 32, 32)), "attn_v", "Q3_K") == list(range(32))


@pytest.mark.parametrize(
    ("columns", "kind", "output"), [(576, "Q5_0", "Q8_0"), (900, "F16", "F16"), (512, "Q4_K", "Q6_K")]
)
def test_rows_that_do_not_divide(columns: int, kind: str, output: str) -> None:
    """SmolLM2-135M's hidden size is 576: its Q4_K_M holds Q5_0 and Q8_0."""
    types = tensor_types("Q4_K_M", layers(2, columns), Model(2, 9, 3))
    assert types["blk.0.attn_output.weight"] == kind and types["output.weight"] == output
    assert wanted_types("Q4_K_M", layers(2, columns), Model(2, 9, 3))["blk.0.attn_output.weight"] == "Q4_K"


def test_a_tied_embedding_is_the_output() -> None:
    assert tensor_types("Q4_K_M", layers(2, tied=True), Model(2, 8, 4))["token_embd.weight"] == "Q6_K"
    assert tensor_types("Q4_K_M", layers(2), Model(2, 8, 4))["token_embd.weight"] == "Q4_K"


def test_names() -> None:
    assert [mixture(name) for name in ("q4_k", "q8_0", "Q3_K_L", "bf16")] == ["Q4_K_M", "Q8_0", "Q3_K_L", "BF16"]
    with pytest.raises(ValueError, match="Q4_K_M"):
        mixture("q7")
    assert MIXTURES["Q4_K_M"][0] == 15
