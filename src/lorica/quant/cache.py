"""Dense copies of the matrices that were unpacked last, within a limit."""

from collections import OrderedDict

from torch import Tensor, nn


class UnpackedCache:
    """Keeps at most `limit` bytes; what was used longest ago goes first.

    Where layers are computed again in the backward pass, a limit of one layer's dense size saves one unpacking in
    three: the second forward pass leaves a layer's matrices for its backward pass, which follows at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[nn.Module, Tensor] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(dense.nbytes for dense in self._kept.values())

    def find(self, matrix: nn.Module, like: Tensor) -> Tensor | None:
        """The dense copy of `matrix`, if there is one with the shape, dtype and device of `like`."""
        dense = self._kept.get(matrix)
        if dense is None or (dense.shape, dense.dtype, dense.device) != (like.shape, like.dtype, like.device):
            return None
        self._kept.move_to_end(matrix)
        return dense

    def keep(self, matrix: nn.Module, dense: Tensor) -> None:
        """Nobody may write to `dense` afterwards. One beyond the limit is not kept."""
        self._kept.pop(matrix, None)
        if dense.nbytes > self.limit:
            return
        while self.nbytes + dense.nbytes > self.limit:
            self._kept.popitem(last=False)
        self._kept[matrix] = dense

    def clear(self) -> None:
        self._kept.clear()
