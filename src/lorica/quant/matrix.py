"""A frozen weight matrix that stays packed: it multiplies by unpacking some rows at a time, and is never dense whole.

The two products of a frozen linear layer, `x W^T` and the gradient `dy W` of its input, need no input kept and no
gradient of W, so between the passes there is nothing but the packed bytes. Unpacking costs one pass over the matrix, a
product one for every token.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lorica.quant.codec import Codec, chunks, for_device

# Weights unpacked at a time. A CPU's products are slow on few rows, and its allocator gives 16 MB again without new
# pages; a GPU takes everything but an output head at once.
CHUNK = {"cpu": 2**22, "cuda": 2**26}
ALIGNED_ROWS = 256  # on which larger chunks end: columns of a result that begin off a cache line cost twice the product


class PackedMatrix(nn.Module):
    """A matrix (rows, columns) as `packed`, uint8 (rows, row bytes), of `codec`. Linear layers and embeddings hold one,
    and a tied pair holds the same one."""

    packed: Tensor

    def __init__(self, codec: Codec, packed: Tensor) -> None:
        super().__init__()
        assert packed.dtype == torch.uint8 and packed.ndim == 2
        self.codec = codec
        self.register_buffer("packed", packed)
        self.shape = (len(packed), codec.columns(packed.shape[1]))

    def extra_repr(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}, {self.codec.name}"

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """All of it (rows, columns), for what needs a whole matrix once."""
        return self.codec.unpack(self.packed, self._empty(self.shape[0], dtype))

    def chunks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Ranges of rows and their weights (rows, columns), to be read only, whose memory the next range takes."""
        ranges = list(chunks(*self.shape, self.chunk_weights, ALIGNED_ROWS))
        buffer = self._empty(max((stop - start for start, stop in ranges), default=0), dtype)
        for start, stop in ranges:
            yield slice(start, stop), self.codec.unpack(self.packed[start:stop], buffer[: stop - start])

    @property
    def chunk_weights(self) -> int:
        return for_device(CHUNK, self.packed.device)

    def gather(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights (..., columns) of `rows` (...), int64."""
        flat = rows.reshape(-1)
        return self.codec.unpack(self.packed[flat], self._empty(len(flat), dtype)).view(*rows.shape, self.shape[1])

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`x W^T` (..., rows) of `x` (..., columns), in x's dtype; in `out`, contiguous, if given."""
        y = x.new_empty(*x.shape[:-1], self.shape[0]) if out is None else out
        flat_x, flat_y = x.reshape(-1, self.shape[1]), y.view(-1, self.shape[0])
        for rows, weight in self.chunks(x.dtype):
            torch.mm(flat_x, weight.t(), out=flat_y[:, rows])
        return y

    def product_back(self, dy: Tensor, into: Tensor | None = None) -> Tensor:
        """`dy W` (..., columns) of `dy` (..., rows), in dy's dtype; with `into`, it is added there."""
        flat = dy.reshape(-1, self.shape[0])
        total: Tensor | None = None
        for rows, weight in self.chunks(dy.dtype):
            if total is None:
                total = torch.mm(flat[:, rows], weight)
            elif dy.dtype.itemsize > 2:
                total.addmm_(flat[:, rows], weight)
            else:  # summed in fp32: sixteen bits would round after every chunk
                total = total.float().add_(torch.mm(flat[:, rows], weight))
        if total is None:
            total = flat.new_zeros(len(flat), self.shape[1])
        dx = total.view(*dy.shape[:-1], self.shape[1])
        return dx.to(dy.dtype) if into is None else into.add_(dx)

    def _empty(self, rows: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, self.shape[1], dtype=dtype, device=self.packed.device)


class Product(torch.autograd.Function):
    """`x W^T` for autograd, which keeps nothing of it: neither input nor weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: PackedMatrix) -> Tensor:
        ctx.matrix = matrix
        return matrix.product(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.product_back(dy), None
