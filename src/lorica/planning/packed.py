"""Packed weights of a planned model: the modules that hold them, and the bytes, without any values."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from lorica.gguf.architectures import architecture
from lorica.gguf.split import GgufModel
from lorica.models.gguf_base import find_place
from lorica.models.packed import put_packed, tie
from lorica.models.packing import choose_types
from lorica.planning.ledger import Ledger
from lorica.planning.step import Watch
from lorica.planning.work import Work
from lorica.quant import Codec, PackedMatrix, codec
from lorica.quant.codec import UNPACK_CHUNK, chunks, for_device


def pack_as(model: Any, weights: str, dtype: torch.dtype) -> None:
    """Have the matrices of `model`, which is on the meta device, packed as `model.weights` says."""
    _, types = choose_types(model, weights)
    for name, kind in types.items():
        _pack(model, name, codec(kind), dtype)
    tie(model)


def pack_like(model: Any, file: GgufModel, dtype: torch.dtype) -> None:
    """Have the matrices of `model` packed as the GGUF file holds them."""
    found = architecture(file.metadata)
    for name, parameter in list(model.named_parameters()):
        if parameter.ndim == 2 and not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            place = find_place(file, found, model.config, name)
            _pack(model, name, file.codec(place.tensor), dtype)
    tie(model)


def _pack(model: nn.Module, name: str, kind: Codec, dtype: torch.dtype) -> None:
    module_name = name.rpartition(".")[0]
    module: Any = model.get_submodule(module_name)
    rows, columns = module.weight.shape
    packed = torch.empty(rows, kind.row_bytes(columns), dtype=torch.uint8, device="meta")
    put_packed(model, module_name, kind, packed, dtype)


def make_tables(model: nn.Module) -> None:
    """Codecs make their look-up tables once for each device; make those of the CPU now, while tensors have values."""
    for kind in {part.codec for part in model.modules() if isinstance(part, PackedMatrix)}:
        kind.unpack(torch.zeros(1, kind.row_bytes(256), dtype=torch.uint8))


def twin_of(tensor: Tensor) -> Tensor:
    """The same on the meta device."""
    meta = torch.empty_like(tensor, device="meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta


class CountedCodec(Codec):
    """`codec` for rehearsals: what unpacking a few rows allocates and computes is seen once and counted for all others.
    A codec works on a cache's worth of rows at a time, so an 8B's step unpacks by a million small operators."""

    def __init__(self, codec: Codec, watch: Watch) -> None:
        self.name, self.type_id, self.block_length = codec.name, codec.type_id, codec.block_length
        self.codec, self.watch = codec, watch
        self.seen: dict[Any, tuple[int, Counter[Work]]] = {}

    def unpack(self, packed: Tensor, out: Tensor | None = None) -> Tensor:
        rows, columns = packed.shape[0], self.columns(packed.shape[1])
        if out is None:
            out = torch.empty(rows, columns, dtype=torch.float32, device=packed.device)
        step = max(1, for_device(UNPACK_CHUNK, packed.device) // columns)
        first = min(rows, 2 * step)  # from the second on what the one before held is there as well
        key = (first, columns, out.dtype, out.is_contiguous())
        if key not in self.seen:
            with Ledger(self.watch.ledger.device, self.watch.ledger.granularity) as alone:
                alone.claim([packed, out], "given")
                before = alone.total
                self.codec.unpack(packed[:first], out[:first])
            self.seen[key] = alone.peak - before, alone.stages[-1].work
        inside, work = self.seen[key]
        times = len(list(chunks(rows, columns, step * columns))) / max(1, round(first / step))
        self.watch.ledger.note(inside, Counter({one: round(count * times) for one, count in work.items()}))
        return out

    def unpack_rows(self, packed: Tensor, out: Tensor) -> None:
        self.codec.unpack_rows(packed, out)

    def pack(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        return self.codec.pack(weight, importance)

    def _bytes(self, blocks: int) -> int:
        return self.codec._bytes(blocks)

    def _blocks(self, row_bytes: int) -> int:
        return self.codec._blocks(row_bytes)


def count_unpacking(model: nn.Module, watch: Watch) -> None:
    """Rehearse what every packed matrix does to be unpacked once for each number of rows."""
    counted: dict[Codec, CountedCodec] = {}
    for part in model.modules():
        if isinstance(part, PackedMatrix):
            part.codec = counted.setdefault(part.codec, CountedCodec(part.codec, watch))
