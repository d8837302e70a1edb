"""bitsandbytes' 4-bit tensors, as its checkpoints store them, to packed rows and back, without loss.

A linear's `weight` (n / 2, 1) uint8 comes with `weight.absmax`, `weight.quant_map`, under double quantisation
`weight.nested_absmax` and `weight.nested_quant_map`, and `weight.quant_state.bitsandbytes__nf4`, which is JSON as
bytes.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lorica.quant.arithmetic import as_bytes, numbers
from lorica.quant.codec import Codec
from lorica.quant.nf4 import BLOCK, CODES, NESTED, NF4, DoubleNF4, dynamic_map, levels

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STATE = "weight.quant_state.bitsandbytes__nf4"


def read(tensors: Mapping[str, Tensor]) -> tuple[Codec, Tensor]:
    """The codec and packed rows of one linear's tensors, keyed as above.

    Raises ValueError for a format other than NF4 in blocks of 64, for rows that are not whole blocks, and for tensors
    that do not fit together.
    """
    state = _state(tensors)
    rows, columns = state["shape"]
    nested = "weight.nested_absmax" in tensors
    found: Codec = DoubleNF4() if nested else NF4()
    found.row_bytes(columns)
    blocks = rows * columns // BLOCK
    codes = _flat(tensors, "weight", None, blocks * CODES).view(rows, -1)
    _check_map(tensors, "weight.quant_map", levels(codes.device))
    if not nested:
        magnitude = _flat(tensors, "weight.absmax", torch.float32, blocks * 4).view(-1, 4)
        return found, torch.cat([magnitude, codes.view(-1, CODES)], 1).view(rows, -1)
    _check_map(tensors, "weight.nested_quant_map", dynamic_map(codes.device))
    magnitudes = _flat(tensors, "weight.absmax", torch.uint8, blocks)
    scales = _flat(tensors, "weight.nested_absmax", torch.float32, -(-blocks // NESTED) * 4).view(torch.float32)
    offset = torch.tensor(float(state["nested_offset"]), dtype=torch.float32, device=codes.device)
    assert isinstance(found, DoubleNF4)
    return found, found.assemble(codes, magnitudes, scales, offset)


def write(codec: Codec, packed: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of bitsandbytes for packed rows; `dtype` is what it shall unpack them to.

    Raises ValueError for a codec that is not NF4, and for rows of a doubly quantised tensor that are not in their
    original order, since bitsandbytes' scales run across rows.
    """
    rows = len(packed)
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": str(dtype).removeprefix("torch.")}
    state["shape"] = [rows, codec.columns(packed.shape[1])]
    tensors = {"weight.quant_map": levels(packed.device).clone()}
    if isinstance(codec, NF4):
        blocks = packed.view(-1, codec.block_bytes)
        tensors["weight"] = blocks[:, 4:].reshape(-1, 1)
        tensors["weight.absmax"] = numbers(blocks[:, :4], torch.float32).flatten()
    elif isinstance(codec, DoubleNF4):
        codes, magnitudes, scales, offset, first = codec.take_apart(packed)
        start = torch.arange(rows, device=packed.device)[:, None] * magnitudes.shape[1]
        if (first != start % NESTED).any() or (offset != offset[0]).any():
            raise ValueError("these NF4 rows were cut or reordered; bitsandbytes' scales run across rows in order.")
        count = -(-magnitudes.numel() // NESTED)
        place = (start // NESTED + torch.arange(scales.shape[1], device=packed.device)).clamp(max=count - 1)
        nested = torch.empty(count, device=packed.device).index_put_((place,), scales)
        tensors |= {"weight": codes.reshape(-1, 1), "weight.absmax": magnitudes.flatten()}
        tensors |= {"weight.nested_absmax": nested, "weight.nested_quant_map": dynamic_map(packed.device).clone()}
        state |= {"nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": float(offset[0])}
    else:
        raise ValueError(f"bitsandbytes has no {codec.name}; it reads NF4.")
    tensors[STATE] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return tensors


def shape_and_dtype(state: Tensor) -> tuple[list[int], torch.dtype]:
    """Of the weight whose state is `state`: (rows, columns), and what bitsandbytes unpacks it to. Raises ValueError."""
    values = _state({STATE: state})
    if values.get("dtype") not in DTYPES:
        raise ValueError(f"{STATE} unpacks to {values.get('dtype')!r}; expected one of {', '.join(DTYPES)}.")
    return [int(size) for size in values["shape"]], DTYPES[values["dtype"]]


def _state(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if STATE not in tensors:
        raise ValueError(f"no {STATE} among {', '.join(sorted(tensors))}; only bitsandbytes' NF4 is read.")
    try:
        state = json.loads(bytes(tensors[STATE].cpu().to(torch.uint8).tolist()))
        rows, columns = (int(size) for size in state["shape"])
        nested = "weight.nested_absmax" not in tensors or (
            state["nested_blocksize"] == NESTED and isinstance(state["nested_offset"], float | int)
        )
        usable = state["quant_type"] == "nf4" and state["blocksize"] == BLOCK and nested and rows > 0 and columns > 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{STATE} is not what bitsandbytes writes for a weight matrix: {error!r}.") from None
    if not usable:
        raise ValueError(f"{STATE} is {state}; Lorica reads NF4 in blocks of {BLOCK}, nested in runs of {NESTED}.")
    return state


def _flat(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype | None, size: int) -> Tensor:
    """The bytes of a tensor, checked against the size that the shape in the state asks for."""
    tensor = tensors.get(name)
    if tensor is None or (dtype is not None and tensor.dtype != dtype) or tensor.numel() * tensor.itemsize != size:
        seen = "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
        raise ValueError(f"{name} of a bitsandbytes weight is {seen}; its state asks for {size} bytes.")
    return as_bytes(tensor.reshape(1, -1)).view(-1)


def _check_map(tensors: Mapping[str, Tensor], name: str, expected: Tensor) -> None:
    found = tensors.get(name)
    if found is None or found.shape != expected.shape or not torch.equal(found.float(), expected):
        raise ValueError(f"{name} of a bitsandbytes weight is missing or not the map of its format.")
