"""Packed bytes are llama.cpp's: against hashes it gave, against the `gguf` library, and against itself if installed."""

import hashlib
import json
from pathlib import Path

import gguf
import llama_cpp_library
import pytest
import torch
from torch import Tensor
from weights import golden_inputs, hard_inputs, importances

from lorica.quant import CODECS, Codec

BLOCK_TYPES = [codec for codec in CODECS.values() if codec.type_id is not None and codec.name != "F32"]
SEARCHED = [codec for codec in BLOCK_TYPES if codec.uses_importance]
LIBRARY_PACKS = ["F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "MXFP4"]
# SHA-256 of what llama.cpp 0.3.36's ggml_quantize_chunk writes for the two golden inputs, one after the other, with the
# importance "spread" over 512 columns; `test_llama_cpp_itself` makes them.
WITH_IMPORTANCE = {
    "Q6_K": "336d694714b2319602d68110b0079e2d7e879b1fb8d5c988ab2676fae4eb76b0",
    "Q5_K": "9b9ae11615f7f317ee3d47a77762387eaa9ce57d9970fb67e4736b19dce7c000",
    "Q4_K": "42f96de3e4f9151fb70f139b4beb9b22ddd6e627357156383487c0febac7e028",
    "Q3_K": "3ba5e3afbf880c216a6c90f4d4d92233d9da256128a9d97e7bfb1b987755834d",
    "Q2_K": "b68b78fc5d39e91db3eebabf9dedbc1d6cb5b1655fda5873adc113b4c281d59c",
    "Q5_0": "df769ea5fd8aa928cf2577c871023e41d1ea93db50488a34b00af5c9e70b12b3",
    "Q5_1": "b7dfc67f1cc72c386327b6bd672244f21308c31c5aa8ae74f8ddcb59b9ef0318",
    "Q4_0": "c7e351d41bbc4702c16e10f1fcefa713f73d7e2bb137d48c294dc49b34590a66",
    "Q4_1": "f05a645996ba22ade13da25f8757679a90703fda13ff4757681743880c737970",
    "IQ4_XS": "a89012056dfd4c527bb25e97828f968ec21705ff22e41ef4326ac2099dce7be2",
    "IQ4_NL": "c58c36c31c824905085a47631428f7ff10c9eb993c4bbda9ddf383788488c70d",
}


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Codec) else None


def hash_of(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.mark.parametrize("source", ["gaussian", "heavy_tailed"])
def test_bytes_and_values_are_those_of_llama_cpp(shared: Path, source: str) -> None:
    expected = json.loads((shared / "golden/ggml_blocks.json").read_text())["expected"][source]
    weight = golden_inputs()[source]
    assert len(expected) == 12
    for name, golden in expected.items():
        packed = CODECS[name].pack(weight)
        dense = CODECS[name].unpack(packed)
        assert (name, hash_of(packed)) == (name, golden["sha256"])
        assert (name, hash_of(dense)) == (name, golden["dequantized_sha256"])


@pytest.mark.parametrize("codec", SEARCHED, ids=name_of)
def test_bytes_with_importance_are_those_of_llama_cpp(codec: Codec) -> None:
    importance = importances(512)["spread"]
    packed = [codec.pack(weight, importance) for weight in golden_inputs().values()]
    assert hash_of(*packed) == WITH_IMPORTANCE[codec.name]


@pytest.mark.parametrize("name", LIBRARY_PACKS)
def test_bytes_are_those_of_the_gguf_library(name: str) -> None:
    codec = CODECS[name]
    for what, weight in hard_inputs().items():
        expected = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType(codec.type_id))
        found = codec.pack(weight)
        given = torch.from_numpy(expected.view("uint8").reshape(found.shape))
        if "zeros" in what:  # the library's scales of blocks without a value have another sign of zero than llama.cpp's
            found, given = codec.unpack(found), codec.unpack(given)
        assert torch.equal(found, given), what


@pytest.mark.parametrize("codec", BLOCK_TYPES, ids=name_of)
def test_llama_cpp_itself(codec: Codec) -> None:
    library = llama_cpp_library.load()
    cases = hard_inputs() | golden_inputs()
    for what, weight in cases.items():
        chosen: dict[str, Tensor | None] = {"none": None}
        if codec.uses_importance:
            chosen |= importances(weight.shape[1])
        for kind, importance in chosen.items():
            expected = llama_cpp_library.packed(library, codec, weight, importance)
            found = codec.pack(weight, importance)
            if what == "below fp16" and kind == "none" and codec.name in ("Q4_0", "Q5_0", "MXFP4"):
                # casts of infinities, undefined in C; the values are zeros all the same
                assert torch.equal(codec.unpack(found), codec.unpack(expected)), (what, kind)
            else:
                assert torch.equal(found, expected), (what, kind)


@pytest.mark.parametrize("codec", CODECS.values(), ids=name_of)
def test_any_input_layout_gives_the_same_bytes(codec: Codec) -> None:
    weight = golden_inputs()["gaussian"].bfloat16()
    expected = codec.pack(weight.float())
    assert torch.equal(codec.pack(weight), expected)
    assert torch.equal(codec.pack(weight.t().contiguous().t()), expected)
    assert torch.equal(codec.pack(torch.cat([weight, weight], 1)[:, :512]), expected)
    assert torch.equal(codec.pack(weight.double().requires_grad_()), expected)
    if codec.name != "NF4_DQ":  # whose scales run across rows
        assert torch.equal(codec.pack(weight[9:10]), expected[9:10])


@pytest.mark.parametrize("codec", CODECS.values(), ids=name_of)
def test_what_cannot_be_packed_is_refused(codec: Codec) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        weight = torch.zeros(3, 512)
        weight[2, 300] = value
        with pytest.raises(ValueError, match="NaN, infinite"):
            codec.pack(weight)
    if codec.block_length > 1:
        with pytest.raises(ValueError, match=rf"blocks of {codec.block_length} .* rows of 257.*fallback"):
            codec.pack(torch.zeros(2, 257))
    if codec.uses_importance:
        for importance in (torch.ones(511), -torch.ones(512), torch.full((512,), float("nan"))):
            with pytest.raises(ValueError, match="512 finite numbers of at least 0"):
                codec.pack(torch.zeros(2, 512), importance)


def test_values_beyond_the_scales_are_refused() -> None:
    weight = torch.full((1, 256), 1e30)
    for name in ("Q8_0", "Q4_K", "Q6_K", "Q3_K", "Q2_K", "Q4_0", "Q5_1", "IQ4_NL"):
        with pytest.raises(ValueError, match=r"fp16 scales end at 65504"):
            CODECS[name].pack(weight)
    with pytest.raises(ValueError, match="pack this tensor as BF16 or F32"):
        CODECS["F16"].pack(weight)
    assert CODECS["NF4"].unpack(CODECS["NF4"].pack(weight)).allclose(weight)
    assert torch.equal(CODECS["F32"].unpack(CODECS["F32"].pack(weight)), weight)


@pytest.mark.parametrize("codec", [codec for codec in BLOCK_TYPES if codec.uses_importance], ids=name_of)
def test_importance_lowers_the_error_it_weighs(codec: Codec) -> None:
    weight, importance = golden_inputs()["gaussian"], importances(512)["spread"]
    plain, weighted = (
        (importance * (codec.unpack(codec.pack(weight, chosen)) - weight).square()).sum()
        for chosen in (None, importance)
    )
    assert weighted < plain
