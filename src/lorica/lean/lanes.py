"""Products with an adapter's matrices, one matrix a lane.

Rows of all lanes lie one after another, (lanes * tokens, features), as the frozen projections want them. An adapter's
matrix is (lanes, ., .) and multiplies the rows of its own lane; that of a single lane is (., .), which saves a view for
every product.
"""

import torch
from torch import Tensor

from lorica.kernels.dtypes import cast


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """`x @ matrix` by lane: (rows, k) and (lanes, k, n) give (rows, n)."""
    if matrix.dim() == 2:
        return torch.mm(x, matrix)
    return torch.bmm(by_lane(x, len(matrix)), matrix).flatten(0, 1)


def add_product_(y: Tensor, x: Tensor, matrix: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """`y += scale * x @ matrix` by lane, in place; the scale costs nothing inside the product. Lanes that differ in it
    give it as (lanes, 1, 1)."""
    if isinstance(scale, Tensor):
        matrix, scale = matrix * scale.to(matrix.dtype), 1.0
    if matrix.dim() == 2:
        return y.addmm_(x, matrix, alpha=scale)
    by_lane(y, len(matrix)).baddbmm_(by_lane(x, len(matrix)), matrix, alpha=scale)
    return y


def scaled_(x: Tensor, scale: float | Tensor) -> Tensor:
    """Rows times the scale of their lane, in place."""
    if isinstance(scale, Tensor):
        by_lane(x, len(scale)).mul_(scale)
        return x
    return x if scale == 1.0 else x.mul_(scale)


def outer(dy: Tensor, x: Tensor, lanes: int) -> Tensor:
    """`dy^T @ x` by lane, in fp32 or better: (rows, m) and (rows, n) give (lanes, m, n), the gradient of a matrix, or
    (m, n) with one lane."""
    if dy.shape[1] > x.shape[1]:
        return outer(x, dy, lanes).mT  # a product with its short side first takes half the time
    wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
    if lanes > 1:
        return torch.bmm(by_lane(dy, lanes).mT, by_lane(x, lanes)).to(wide)
    if dy.is_cuda and dy.dtype != wide:
        return torch.mm(dy.t(), x, out_dtype=wide)  # 16-bit operands, unrounded sums
    return cast(torch.mm(dy.t(), x), wide)


def by_lane(x: Tensor, lanes: int) -> Tensor:
    """A view (lanes, tokens, features) of rows."""
    return x.unflatten(0, (lanes, -1))


def with_lanes(matrix: Tensor) -> Tensor:
    """An adapter's matrix with its axis of lanes."""
    return matrix if matrix.dim() == 3 else matrix.unsqueeze(0)
