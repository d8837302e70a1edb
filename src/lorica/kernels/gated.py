"""Gated activations `act(gate) * up` (Shazeer 2020, https://arxiv.org/abs/2002.05202): SwiGLU, GeGLU and their like.

The backward pass starts from gate and up alone. It gives the product again beside the gradients, because the low-rank
pair of the projection that reads it needs it there, and it has been computed for the gradients already.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.kernels.dispatch import is_traced, runs_triton

# transformers' names (`hidden_act`).
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """`activation(gate) * up`, of their shape and type; `activation` is one of `ACTIVATIONS`."""
    product = _operator if is_traced(gate) else _gated
    return product(gate, up, activation)


def gated_backward(
    d_product: Tensor, gate: Tensor, up: Tensor, activation: str, overwrite: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The product again and the gradients of gate and up, from the gradient `d_product` of the product.

    With `overwrite` all three arguments are used up: the results may lie in their memory, in no particular order.
    """
    if not is_traced(gate) and not runs_triton(gate):
        return gated_backward_reference(d_product, gate, up, activation, overwrite)
    if not overwrite:
        d_product, gate, up = d_product.clone(), gate.clone(), up.clone()
    backward = _backward_operator if is_traced(gate) else _gated_backward_
    backward(d_product, gate, up, activation)
    return d_product, gate, up


def gated_reference(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """Sixteen-bit types are rounded after each operation, as in transformers: computed in fp32 and rounded once,
    as on a GPU, both passes took twice the time (AMX, 1,024 rows of 1,536)."""
    return activate(gate, activation).mul_(up)


def gated_backward_reference(
    d_product: Tensor, gate: Tensor, up: Tensor, activation: str, overwrite: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    activated = activate(gate, activation)
    d_gate = activate_backward(d_product * up, gate, activation)
    d_up = torch.mul(d_product, activated, out=d_product if overwrite else None)
    return activated.mul_(up), d_gate, d_up


def activate(x: Tensor, activation: str) -> Tensor:
    match activation:
        case "silu":
            return F.silu(x)
        case "relu":
            return F.relu(x)
        case _:
            return F.gelu(x, approximate=gelu_formula(activation))


def activate_backward(dy: Tensor, x: Tensor, activation: str) -> Tensor:
    match activation:
        case "silu":
            return torch.ops.aten.silu_backward(dy, x)
        case "relu":
            return torch.ops.aten.threshold_backward(dy, x, 0)
        case _:
            return torch.ops.aten.gelu_backward(dy, x, approximate=gelu_formula(activation))


def gelu_formula(activation: str) -> str:
    return {"gelu": "none", "gelu_pytorch_tanh": "tanh"}[activation]


def _gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    if runs_triton(gate):
        from lorica.kernels.triton.gated import gated_triton

        return gated_triton(gate, up, activation)
    return gated_reference(gate, up, activation)


def _gated_backward_(d_product: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    """The product ends in `d_product`, and each gradient in the tensor it is of."""
    if runs_triton(gate):
        from lorica.kernels.triton.gated import gated_backward_triton_

        gated_backward_triton_(d_product, gate, up, activation)
        return
    results = gated_backward_reference(d_product, gate, up, activation)
    for tensor, result in zip((d_product, gate, up), results, strict=True):
        tensor.copy_(result)


_operator = torch.library.custom_op("lorica::gated", _gated, mutates_args=())
_backward_operator = torch.library.custom_op(
    "lorica::gated_backward_", _gated_backward_, mutates_args={"d_product", "gate", "up"}
)


@_operator.register_fake
def _(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return torch.empty_like(gate)
