"""Formats by name and number, and what replaces them."""

import gguf
import pytest

from lorica.quant import CODECS, codec, codec_of_type, fallback


def test_names_and_numbers_are_those_of_ggml() -> None:
    for name, found in CODECS.items():
        assert codec(name.lower()) is found
        if found.type_id is not None:
            assert gguf.GGMLQuantizationType(found.type_id).name == name
            assert codec_of_type(found.type_id) is found
    with pytest.raises(ValueError, match=r'"q7_k" is no packed format .* Q6_K'):
        codec("q7_k")
    with pytest.raises(ValueError, match=r"ggml's type 19 cannot be read; Lorica reads .*Q4_K \(12\)"):
        codec_of_type(19)


# SmolLM2-135M and Gemma 3 270M have rows of 576 and 640; 80 divides into nothing.
@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 576, "Q5_0"),
        ("Q5_K", 640, "Q5_1"),
        ("Q6_K", 576, "Q8_0"),
        ("Q3_K", 576, "Q4_0"),
        ("Q2_K", 576, "Q4_0"),
        ("NF4", 576, "NF4"),
        ("NF4", 96, "IQ4_NL"),
        ("Q8_0", 80, "F16"),
        ("Q4_K", 80, "F16"),
    ],
)
def test_fallbacks_are_those_of_llama_cpp(name: str, columns: int, expected: str) -> None:
    assert fallback(name, columns) == expected
