"""Unpacked values to the last bit: random bytes against the `gguf` library, and the tensors of real files."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from weights import golden_inputs

from lorica.quant import CODECS, Codec, codec_of_type

IN_GGUF = [codec for codec in CODECS.values() if codec.type_id is not None]


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Codec) else None


@pytest.mark.parametrize("codec", IN_GGUF, ids=name_of)
@pytest.mark.parametrize("columns", [256, 1280])
def test_any_bytes_unpack_as_in_the_gguf_library(codec: Codec, columns: int) -> None:
    """Scales that are NaN, infinite or denormal among them: a damaged file must not unpack to something healthy."""
    draw = torch.Generator().manual_seed(columns)
    packed = torch.randint(256, (48, codec.row_bytes(columns)), generator=draw, dtype=torch.uint8)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(
            gguf.quants.dequantize(packed.numpy(), gguf.GGMLQuantizationType(codec.type_id)).copy()
        )
    found = codec.unpack(packed)
    not_numbers = expected.isnan()
    assert torch.equal(found.isnan(), not_numbers)
    assert torch.equal(found.view(torch.int32)[~not_numbers], expected.view(torch.int32)[~not_numbers])


@pytest.mark.parametrize("mixture", ["f32", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M"])
def test_tensors_of_files_that_llama_cpp_wrote(shared: Path, mixture: str) -> None:
    reader = gguf.GGUFReader(shared / f"golden/gguf/tiny-llama-{mixture}.gguf")
    seen = set()
    for tensor in reader.tensors:
        codec = codec_of_type(tensor.tensor_type)
        seen.add(codec.name)
        rows = int(np.prod(tensor.shape[1:]))
        data = torch.from_numpy(np.array(tensor.data).view(np.uint8).reshape(rows, -1))
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(rows, -1)
        assert codec.columns(data.shape[1]) == tensor.shape[0]
        assert torch.equal(codec.unpack(data), torch.from_numpy(expected.copy())), tensor.name
    assert seen - {"F32"} or mixture == "f32"


@pytest.mark.parametrize("codec", CODECS.values(), ids=name_of)
def test_rows_stand_alone(codec: Codec) -> None:
    """Gathered, cut and reordered rows unpack to the rows of the whole, into any dtype and strides."""
    packed = codec.pack(golden_inputs()["heavy_tailed"])
    dense, order = codec.unpack(packed), torch.tensor([63, 0, 0, 17])
    assert torch.equal(codec.unpack(packed[order]), dense[order])
    assert torch.equal(codec.unpack(packed[20:21]), dense[20:21])
    assert torch.equal(codec.unpack(packed[::3]), dense[::3])
    assert codec.unpack(packed[:0]).shape == (0, 512)
    for out in (torch.empty(64, 512, dtype=torch.bfloat16), torch.empty(512, 64).t(), torch.empty(64, 600)[:, :512]):
        assert codec.unpack(packed, out) is out
        assert torch.equal(out, dense.to(out.dtype))


@pytest.mark.parametrize("codec", CODECS.values(), ids=name_of)
def test_sizes(codec: Codec) -> None:
    for columns in (256, 512, 4096, 16384, 16640):
        size = codec.row_bytes(columns)
        assert codec.columns(size) == columns
        assert codec.pack(torch.zeros(1, columns)).shape == (1, size)
        with pytest.raises(ValueError, match=f"{size + 1} bytes a row are not whole {codec.name} blocks"):
            codec.columns(size + 1)
        if codec.type_id is not None:
            block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(codec.type_id)]
            assert (codec.block_length, size) == (block, columns // block * block_bytes)
    assert codec.row_bytes(2**20) * 8 / 2**20 == pytest.approx(codec.bits_per_weight, rel=1e-4)
    with pytest.raises(ValueError, match="not whole"):
        codec.columns(0)
