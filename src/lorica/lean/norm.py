"""RMS norms of models, recognised by what they compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorica.kernels import rms_norm, rms_norm_backward


@dataclass(frozen=True)
class Norm:
    """A frozen norm: `x / rms(x) * (offset + weight)`, rounded before the weight multiplies it or after."""

    module: nn.Module
    weight: Tensor
    eps: float
    offset: float
    round_first: bool

    def forward(self, x: Tensor) -> Tensor:
        """Over the last `size` features: (..., n) to (..., n), where n is a multiple of the norm's size."""
        rows = x.unflatten(-1, (-1, self.size)) if x.shape[-1] != self.size else x
        return rms_norm(rows, self.weight, self.eps, self.offset, self.round_first).view(x.shape)

    def backward(self, dy: Tensor, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The gradient of `x` in dy's memory; `residual` is added."""
        shape = (*x.shape[:-1], -1, self.size) if x.shape[-1] != self.size else x.shape
        dx = rms_norm_backward(
            dy.view(shape), x.view(shape), self.weight, self.eps, self.offset, residual, overwrite=True
        )
        return dx.view(dy.shape)

    @property
    def size(self) -> int:
        return self.weight.shape[0]


def looks_like_norm(module: nn.Module) -> bool:
    """Whether all that `module` holds is one vector named weight."""
    parameters = dict(module.named_parameters())
    return list(parameters) == ["weight"] and parameters["weight"].dim() == 1


@torch.no_grad()
def find_norm(module: nn.Module) -> Norm | None:
    """The RMS norm that `module` computes, or None. Every kind is tried, on a CPU with a weight made up for it: in fp32
    for what it computes, and in a 16-bit type for where it rounds."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if isinstance(module, nn.LayerNorm) or not looks_like_norm(module) or not isinstance(eps, float):
        return None
    weight = module.get_parameter("weight")
    x = torch.randn(8, weight.shape[0], generator=torch.Generator().manual_seed(0))
    kinds = [Norm(module, weight, eps, offset, first) for offset in (0.0, 1.0) for first in (True, False)]
    fitting = [norm for norm in kinds if _difference(norm, x) < 1e-5 and _difference(norm, x.bfloat16()) < 1e-2]
    return min(fitting, key=lambda norm: _difference(norm, x.bfloat16()), default=None)


def _difference(norm: Norm, x: Tensor) -> float:
    """Relative to the norm of the module's own result; infinite for one of another type."""
    weight = torch.linspace(0.5, 1.5, norm.size, dtype=norm.weight.dtype)
    expected: Tensor = torch.func.functional_call(norm.module, {"weight": weight}, (x,))
    found = rms_norm(x, weight, norm.eps, norm.offset, norm.round_first)
    if found.dtype != expected.dtype:
        return float("inf")
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))
