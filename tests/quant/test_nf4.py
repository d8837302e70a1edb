"""NF4 against bitsandbytes itself: bytes, values, errors, and its checkpoints read and written."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from weights import golden_inputs, hard_inputs

from lorica.quant import CODECS, codec
from lorica.quant import bitsandbytes as layout
from lorica.quant.nf4 import dynamic_map, levels

NAMES = ["NF4", "NF4_DQ"]
WEIGHTS = golden_inputs() | hard_inputs()
# Rows of an odd number of blocks, and more than the 256 blocks that share a scale in a row and over rows.
WEIGHTS |= {
    "odd rows": torch.randn(37, 192, generator=torch.Generator().manual_seed(1)),
    "long rows": torch.randn(3, 64 * 300, generator=torch.Generator().manual_seed(2)),
}


@pytest.fixture(scope="module")
def functional() -> Any:
    return pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes, which is there on Linux only")


def stored(functional: Any, weight: Tensor, name: str) -> dict[str, Tensor]:
    """What a checkpoint of bitsandbytes holds for `weight`."""
    data, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=name == "NF4_DQ")
    return {"weight": data} | {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", WEIGHTS)
def test_bytes_and_values_are_those_of_bitsandbytes(functional: Any, what: str, name: str) -> None:
    weight = WEIGHTS[what]
    data, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=name == "NF4_DQ")
    expected = functional.dequantize_4bit(data, state)
    read, packed = layout.read(stored(functional, weight, name))
    assert read.name == name
    assert torch.equal(read.unpack(packed), expected)
    own = codec(name).pack(weight)
    written = layout.write(codec(name), own, torch.float32)
    assert torch.equal(written["weight"], data)
    if name == "NF4":
        assert torch.equal(own, packed)
    errors = [(values - weight).norm() for values in (codec(name).unpack(own), expected)]
    torch.testing.assert_close(*errors, rtol=1e-4, atol=0)


@pytest.mark.parametrize("what", WEIGHTS)
def test_double_quantisation_is_that_of_bitsandbytes(functional: Any, what: str) -> None:
    """Offset and scales to the bit; magnitudes take the nearest entry, where its CPU kernel bins those near a tie."""
    weight = WEIGHTS[what]
    data, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    found = layout.write(CODECS["NF4_DQ"], CODECS["NF4_DQ"].pack(weight), torch.float32)
    assert json.loads(bytes(found[layout.STATE].tolist()))["nested_offset"] == float(state.offset)
    assert torch.equal(found["weight.nested_absmax"], state.state2.absmax)
    scales = state.state2.absmax.repeat_interleave(256)[: state.absmax.numel()]
    _, single = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=False)
    scaled = (single.absmax - state.offset) / scales
    distance = (scaled[:, None] - functional.create_dynamic_map()).abs()  # (blocks, 256)
    own, theirs = (distance.gather(1, codes.long()[:, None])[:, 0] for codes in (found["weight.absmax"], state.absmax))
    usable = scales > 0  # otherwise any code stands for 0
    torch.testing.assert_close(own[usable], distance.amin(1)[usable], rtol=0, atol=1e-7)
    assert (theirs - own)[usable].max() < 2**-14 if usable.any() else True  # two of its bins
    values = CODECS["NF4_DQ"].unpack(CODECS["NF4_DQ"].pack(weight))
    expected = functional.dequantize_4bit(data, state)
    same = (found["weight.absmax"] == state.absmax) | ~usable
    assert same.float().mean() > 0.95
    assert torch.equal(values.view(-1, 64)[same], expected.view(-1, 64)[same])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["gaussian", "odd rows", "long rows", "one row"])
def test_checkpoints_are_read_and_written_without_loss(functional: Any, what: str, name: str) -> None:
    given = stored(functional, WEIGHTS[what], name)
    found, packed = layout.read(given)
    written = layout.write(found, packed, torch.float32)
    assert written.keys() == given.keys()
    for key in given.keys() - {layout.STATE}:
        assert (key, given[key].dtype, given[key].shape) == (key, written[key].dtype, written[key].shape)
        assert torch.equal(given[key], written[key]), key
    before, after = (json.loads(bytes(tensors[layout.STATE].tolist())) for tensors in (given, written))
    assert before == after
    state = functional.QuantState.from_dict(
        {k.removeprefix("weight."): v for k, v in written.items() if k != "weight"}, "cpu"
    )
    assert torch.equal(functional.dequantize_4bit(written["weight"], state), found.unpack(packed))


def test_rows_of_a_double_quantised_weight_cannot_be_written_reordered() -> None:
    found = CODECS["NF4_DQ"]
    packed = found.pack(WEIGHTS["odd rows"])
    for rows in (packed.flip(0), packed[1:]):
        assert torch.equal(found.unpack(rows)[-1], found.unpack(rows[-1:])[0])
        with pytest.raises(ValueError, match="cut or reordered"):
            layout.write(found, rows, torch.float32)
    with pytest.raises(ValueError, match="bitsandbytes has no Q8_0"):
        layout.write(CODECS["Q8_0"], CODECS["Q8_0"].pack(WEIGHTS["odd rows"]), torch.float32)


def test_maps_are_those_of_bitsandbytes(functional: Any) -> None:
    assert torch.equal(levels(torch.device("cpu")), functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_map(torch.device("cpu")), functional.create_dynamic_map())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (layout.STATE, None, "only bitsandbytes' NF4 is read"),
        (layout.STATE, {"blocksize": 128}, "in blocks of 64"),
        (layout.STATE, {"quant_type": "fp4"}, "reads NF4"),
        (layout.STATE, {"shape": [37]}, "not what bitsandbytes writes"),
        (layout.STATE, {"shape": [37, 0]}, "reads NF4"),
        (layout.STATE, {"shape": [37, 100]}, "blocks of 64"),
        (layout.STATE, {"shape": [10**15, 192]}, "asks for"),
        (layout.STATE, {"nested_blocksize": 64}, "nested in runs of 256"),
        ("weight", None, "missing"),
        ("weight", torch.zeros(5, 1, dtype=torch.uint8), r"weight of .* is \(5, 1\)"),
        ("weight.absmax", torch.zeros(111), "weight.absmax"),
        ("weight.nested_absmax", torch.zeros(2), "weight.nested_absmax"),
        ("weight.quant_map", torch.linspace(-1, 1, 16), "not the map"),
        ("weight.nested_quant_map", None, "not the map"),
    ],
)
def test_what_does_not_fit_together_is_refused(functional: Any, key: str, value: Any, reason: str) -> None:
    tensors = stored(functional, WEIGHTS["odd rows"], "NF4_DQ")
    if isinstance(value, dict):
        state = json.loads(bytes(tensors[key].tolist())) | value
        tensors[key] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    elif value is None:
        del tensors[key]
    else:
        tensors[key] = value
    with pytest.raises(ValueError, match=reason):
        layout.read(tensors)
