"""What stands for a linear layer and an embedding whose weight stays packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorica.quant.matrix import PackedMatrix, Product

MAMBA_TYPES = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")


class PackedLinear(nn.Module):
    """`y = x W^T + bias`, frozen. Inputs are cast to `dtype`, in which it computes; the weight is unpacked to it.

    It has no `weight`: what reads the weight of any linear layer goes through `lorica.lora.weights`. Gradients reach
    the input alone; a hand-chained backward pass calls `project` and `project_back`.
    """

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype, bias: Tensor | None = None) -> None:
        super().__init__()
        self.matrix, self.dtype = matrix, dtype
        self.out_features, self.in_features = matrix.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (..., in). Returns (..., out) in `dtype`."""
        y: Tensor = Product.apply(x.to(self.dtype), self.matrix)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def project(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """As `forward`, unknown to autograd; in `out` (..., out), contiguous and of `dtype`, if given."""
        y = self.matrix.product(x.to(self.dtype), out)
        return y if self.bias is None else y.add_(self.bias)

    @torch.no_grad()
    def project_back(self, dy: Tensor, into: Tensor | None = None) -> Tensor:
        """`dy W` (..., in), the gradient of the input from that of the output; with `into`, it is added there."""
        return self.matrix.product_back(dy.to(self.dtype), into)


class PackedEmbedding(nn.Module):
    """An embedding table whose rows are unpacked as they are looked up, times `embed_scale` where there is one (Gemma
    multiplies by it after rounding it to `dtype`)."""

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype, embed_scale: float | None = None) -> None:
        super().__init__()
        self.matrix, self.dtype, self.embed_scale = matrix, dtype, embed_scale
        self.num_embeddings, self.embedding_dim = matrix.shape

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens`: (...) int64. Returns (..., dim) in `dtype`."""
        y = self.matrix.gather(tokens, self.dtype)
        return y if self.embed_scale is None else y * torch.tensor(self.embed_scale, dtype=self.dtype, device=y.device)


def can_be_packed(module: nn.Module) -> bool:
    """Whether all that `module` does with its weight is to multiply by it or to look rows up (times a constant). What
    does more stays as it is: a router, which returns what it chose; positions that are shifted before they are looked
    up."""
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward
    if isinstance(module, nn.Embedding):
        return type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")
    return False


def is_read_by_kernels(model: nn.Module, name: str) -> bool:
    """Whether kernels of the model's read the weight of the module `name` themselves, past the module's own forward,
    so that neither a packed one nor a low-rank pair beside it would be seen; the list is PEFT's
    (`_check_lora_target_modules_mamba`)."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return model_type in MAMBA_TYPES and name.rpartition(".")[2] in ("out_proj", "conv1d")


def packed_module(module: nn.Module, matrix: PackedMatrix, dtype: torch.dtype) -> PackedLinear | PackedEmbedding:
    """What stands for `module`, a linear layer or an embedding, with the weight `matrix`; give both of a tied pair the
    same one. The module's own weight is not looked at, and may be on the meta device.

    Raises ValueError for another kind of module, and for a matrix of another shape.
    """
    if isinstance(module, nn.Linear):
        shape = (module.out_features, module.in_features)
    elif isinstance(module, nn.Embedding):
        shape = (module.num_embeddings, module.embedding_dim)
    else:
        raise ValueError(f"a {type(module).__name__} cannot hold a packed weight; linear layers and embeddings can.")
    if matrix.shape != shape:
        raise ValueError(f"a {type(module).__name__} of {shape} was given a packed weight of {matrix.shape}.")
    if isinstance(module, nn.Linear):
        return PackedLinear(matrix, dtype, module.bias)
    scale = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", None))
    return PackedEmbedding(matrix, dtype, None if scale is None else float(scale))
