"""What a packed weight format is: how many bytes a block of a row takes, how to pack it, how to unpack it.

A packed weight is a uint8 tensor (rows, row bytes). Blocks run along a row (the input features of a linear layer), so
rows can be gathered, permuted, split and joined without unpacking. Rows are worked on in chunks whose temporaries fit
a core's cache, which is what makes plain torch operations as fast as compiled loops here; a CPU and a GPU run the same
operations, and no operation depends on how a library orders a sum. Unpacking on a GPU has kernels of its own for the
common formats (`lorica.kernels.unpack`). What it gives up: temporaries of about a megabyte, and a check of every value
for being finite, which costs a pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from lorica.kernels.unpack import has_kernel, unpack_
from lorica.quant.arithmetic import divide, square_root, total

# Weights at a time: on a CPU what stays in a core's cache, on a GPU what fills it. A search keeps ten arrays of them.
PACK_CHUNK = {"cpu": 2**18, "cuda": 2**23}
UNPACK_CHUNK = {"cpu": 2**18, "cuda": 2**24}


class Codec(ABC):
    """One packed format. `type_id` is its ggml_type number, None for a format that GGUF does not have."""

    name: str
    type_id: int | None
    block_length: int  # weights
    bits_per_weight: float  # of a row long enough for what it stores once not to count
    uses_importance = True

    def accepts(self, columns: int) -> bool:
        """Whether rows of `columns` weights divide into blocks."""
        return columns > 0 and columns % self.block_length == 0

    def row_bytes(self, columns: int) -> int:
        """Bytes of a packed row. Raises ValueError if the row does not divide into blocks."""
        if not self.accepts(columns):
            raise ValueError(
                f"{self.name} packs rows in blocks of {self.block_length} weights, and this weight has rows of "
                f"{columns}. llama.cpp takes another type for such a tensor: see lorica.quant.fallback."
            )
        return self._bytes(columns // self.block_length)

    def columns(self, row_bytes: int) -> int:
        """Weights in a packed row. Raises ValueError if the row is not a whole number of blocks."""
        blocks = self._blocks(row_bytes)
        if blocks <= 0 or self._bytes(blocks) != row_bytes:
            raise ValueError(
                f"{row_bytes} bytes a row are not whole {self.name} blocks; the tensor is truncated or of another type."
            )
        return blocks * self.block_length

    @abstractmethod
    def _bytes(self, blocks: int) -> int: ...

    @abstractmethod
    def _blocks(self, row_bytes: int) -> int:
        """The number of blocks in `row_bytes`, if a whole number of blocks takes as much."""

    @abstractmethod
    def pack(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """Pack `weight` (rows, columns), of any floating dtype, into uint8 (rows, row bytes).

        `importance` (columns), fp32, is the mean square of each input feature (an imatrix); a search then minimises the
        error weighted by it. Formats without a search (`uses_importance` is false) ignore it, as llama.cpp does. Raises
        ValueError for rows that do not divide, for NaN or infinite values, and for values beyond what the format can
        scale to.
        """

    def unpack(self, packed: Tensor, out: Tensor | None = None) -> Tensor:
        """The weights (rows, columns) of `packed` (rows, row bytes), fp32 unless `out`, of any floating dtype and
        strides, is given to hold them."""
        rows, columns = packed.shape[0], self.columns(packed.shape[1])
        if out is None:
            out = torch.empty(rows, columns, dtype=torch.float32, device=packed.device)
        assert out.shape == (rows, columns)
        if has_kernel(self.name, packed, out):
            unpack_(self.name, packed, out)
            return out
        ranges = list(chunks(rows, columns, for_device(UNPACK_CHUNK, packed.device)))
        if out.dtype == torch.float32 and out.is_contiguous():
            for start, stop in ranges:
                self.unpack_rows(packed[start:stop], out[start:stop])
            return out
        scratch = torch.empty(ranges[0][1] if ranges else 0, columns, dtype=torch.float32, device=packed.device)
        for start, stop in ranges:
            dense = scratch[: stop - start]
            self.unpack_rows(packed[start:stop], dense)
            out[start:stop] = dense
        return out

    def rounded(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """`weight` (rows, columns) as the format gives it back, fp32. Raises ValueError as `pack`."""
        return self.unpack(self.pack(weight, importance))

    @abstractmethod
    def unpack_rows(self, packed: Tensor, out: Tensor) -> None:
        """Write the weights of `packed` (rows, row bytes) to `out` (rows, columns), fp32 and contiguous."""


class BlockCodec(Codec):
    """A format whose rows are blocks one after the other, each of `block_bytes` and complete in itself."""

    block_bytes: int
    importance_span = 0  # weights whose mean square enters an importance; 0: the importance alone; -1: the whole row
    importance_factor = 1.0

    @property
    def bits_per_weight(self) -> float:  # type: ignore[override]
        return 8 * self.block_bytes / self.block_length

    def _bytes(self, blocks: int) -> int:
        return blocks * self.block_bytes

    def _blocks(self, row_bytes: int) -> int:
        return row_bytes // self.block_bytes

    def pack(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        rows, columns = weight.shape
        packed = torch.empty(rows, self.row_bytes(columns), dtype=torch.uint8, device=weight.device)
        importance = checked_importance(importance, columns) if self.uses_importance else None
        for start, stop in chunks(rows, columns, for_device(PACK_CHUNK, weight.device)):
            chunk = weight[start:stop].detach().float().contiguous()
            check_finite(chunk)
            weights = None if importance is None else self.importance_weights(chunk, importance)
            blocks = self.pack_blocks(chunk.view(-1, self.block_length), weights)
            packed[start:stop] = blocks.view(stop - start, -1)
        return packed

    def unpack_rows(self, packed: Tensor, out: Tensor) -> None:
        self.unpack_blocks(packed.reshape(-1, self.block_bytes), out.view(-1, self.block_length))

    @abstractmethod
    def pack_blocks(self, blocks: Tensor, weights: Tensor | None) -> Tensor:
        """uint8 (blocks, block_bytes) of `blocks` (blocks, block_length), fp32 and contiguous. `weights`, of the same
        shape, are what the search weighs errors by, None for the format's own choice."""

    @abstractmethod
    def unpack_blocks(self, packed: Tensor, out: Tensor) -> None:
        """Write the weights of `packed`, uint8 (blocks, block_bytes), to `out`, fp32 (blocks, block_length)."""

    def importance_weights(self, rows: Tensor, importance: Tensor) -> Tensor:
        """importance * sqrt(sigma^2 + x^2) in blocks, llama.cpp's weighting, sigma^2 a mean square around x."""
        if self.importance_span == 0:
            return importance.expand_as(rows).reshape(-1, self.block_length)
        span = rows.shape[1] if self.importance_span < 0 else self.importance_span
        squares = rows.square().view(-1, span)
        mean = divide(total(squares.t()) * self.importance_factor, float(span))
        spread = square_root(mean[:, None] + squares).view_as(rows)
        return (importance * spread).view(-1, self.block_length)


def chunks(rows: int, columns: int, most: int, aligned: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges of rows with about `most` weights each, at least one row; where they hold `aligned` rows, multiples of
    it."""
    step = max(1, most // columns)
    step -= step % aligned if step > aligned else 0
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def for_device(sizes: dict[str, int], device: torch.device) -> int:
    return sizes.get(device.type, sizes["cuda"])


def check_finite(weight: Tensor) -> None:
    lowest, highest = weight.aminmax()  # both are NaN if any value is
    if not torch.isfinite(highest - lowest) or not torch.isfinite(highest):
        raise ValueError("the weight to pack holds NaN, infinite or overflowing values; its file is damaged.")


def checked_importance(importance: Tensor | None, columns: int) -> Tensor | None:
    if importance is None:
        return None
    if importance.shape != (columns,) or not torch.isfinite(importance).all() or (importance < 0).any():
        raise ValueError(
            f"the importance of a weight with rows of {columns} is {columns} finite numbers of at least 0, one an "
            f"input feature; this one has shape {tuple(importance.shape)} or holds other values."
        )
    return importance.float()
