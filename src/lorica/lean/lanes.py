"""Products with an adapter's matrices, one matrix a lane.

Rows of all lanes lie one after another, (lanes * tokens, features), as the frozen projections want them; an adapter's
matrix is (lanes, ., .) and multiplies the rows of its own lane.
"""

import torch
from torch import Tensor


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """`x @ matrix` by lane: (rows, k) and (lanes, k, n) give (rows, n)."""
    if len(matrix) == 1:
        return torch.mm(x, matrix[0])
    return torch.bmm(by_lane(x, len(matrix)), matrix).flatten(0, 1)


def add_product_(y: Tensor, x: Tensor, matrix: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """`y += scale * x @ matrix` by lane, in place; the scale costs nothing inside the product. Lanes that differ in it
    give it as (lanes, 1, 1)."""
    if isinstance(scale, Tensor):
        matrix, scale = matrix * scale.to(matrix.dtype), 1.0
    if len(matrix) == 1:
        return y.addmm_(x, matrix[0], alpha=scale)
    by_lane(y, len(matrix)).baddbmm_(by_lane(x, len(matrix)), matrix, alpha=scale)
    return y


def scaled_(x: Tensor, scale: float | Tensor) -> Tensor:
    """Rows times the scale of their lane, in place."""
    if isinstance(scale, Tensor):
        by_lane(x, len(scale)).mul_(scale)
        return x
    return x.mul_(scale)


def outer(dy: Tensor, x: Tensor, lanes: int) -> Tensor:
    """`dy^T @ x` by lane, in fp32 or better: (rows, m) and (rows, n) give (lanes, m, n), the gradient of a matrix."""
    if dy.shape[1] > x.shape[1]:
        return outer(x, dy, lanes).mT  # a product with its short side first takes half the time
    wide = torch.promote_types(dy.dtype, torch.float32)
    if lanes == 1 and dy.is_cuda and dy.dtype != wide:
        return torch.mm(dy.t(), x, out_dtype=wide).unsqueeze(0)  # 16-bit operands, unrounded sums
    if lanes == 1:
        return torch.mm(dy.t(), x).to(wide).unsqueeze(0)
    return torch.bmm(by_lane(dy, lanes).mT, by_lane(x, lanes)).to(wide)


def by_lane(x: Tensor, lanes: int) -> Tensor:
    """A view (lanes, tokens, features) of rows."""
    return x.unflatten(0, (lanes, -1))
