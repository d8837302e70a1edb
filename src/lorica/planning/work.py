"""What an operator computes and moves, from the shapes of what it is given and gives."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

PRODUCTS = {"aten.mm": (0, 1), "aten.addmm": (1, 2), "aten.bmm": (0, 1), "aten.addmm_": (1, 2), "aten.baddbmm": (1, 2)}
# Results that are other views of what was given, or that nothing has been written to.
FREE = ("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "split", "split_with_sizes",
        "unsqueeze", "squeeze", "detach", "alias", "as_strided", "unbind", "empty", "empty_like", "new_empty",
        "empty_strided", "new_empty_strided", "lift_fresh", "_local_scalar_dense", "_reshape_alias")  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One operator of torch: floating-point operations of matrix products in `dtype`, `narrow` their smallest side
    (elements), and bytes read and written."""

    name: str
    flops: int
    bytes: int
    narrow: int
    dtype: torch.dtype


def work_of(function: Any, args: Any, result: Any) -> Work | None:
    """None for an operator that neither computes nor moves."""
    name = str(function).rpartition(".")[0]
    if name.removeprefix("aten.") in FREE:
        return None
    tensors = [x for x in tree_leaves((args, result)) if isinstance(x, Tensor)]
    if not tensors:
        return None
    moved = sum(x.numel() * x.element_size() for x in tensors)
    if name in PRODUCTS:
        left, right = (args[place] for place in PRODUCTS[name])
        sides = (*left.shape[-2:], right.shape[-1])
        flops = 2 * math.prod(sides) * (left.shape[0] if left.ndim == 3 else 1)
        return Work(name, flops, moved, min(sides), left.dtype)
    if "attention" in name:
        return _attention(name, args, moved)
    wide = next((x for x in tensors if x.is_floating_point()), tensors[0])
    return Work(name, 0, moved, 0, wide.dtype)


def _attention(name: str, args: Any, moved: int) -> Work:
    """Causal: half of the scores. Two products of scores forwards, five backwards (Dao 2023, section 2)."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    backward = "backward" in name
    q = tensors[1] if backward else tensors[0]
    if q.ndim == 4:  # (documents, heads, length, dim)
        documents, heads, length, dim = q.shape
        pairs = documents * length * length / 2
    else:  # (tokens, heads, dim), all documents end to end
        (tokens, heads, dim), table = q.shape, tensors[6 if backward else 3]
        longest = next(x for x in args if isinstance(x, int))
        documents = len(table) - 1
        pairs = min(tokens * longest, tokens * tokens / max(1, documents) * 2) / 2
    return Work(name, int((5 if backward else 2) * 2 * pairs * heads * dim), moved, dim, q.dtype)


def workspace_bytes(function: Any, args: Any, device: torch.device) -> int:
    """What a kernel allocates and frees inside itself on a GPU.

    FlashAttention-2's backward pass sums dq in fp32 and, where heads share keys, holds dk and dv of every head
    (`mha_varlen_bwd` in its flash_api.cpp, which torch builds).
    """
    if device.type == "cpu" or str(function) != "lorica.attention_backward.default":
        return 0
    q, k, table = args[1], args[2], args[6]
    tokens, heads, dim = q.shape
    padded = tokens + 128 * (len(table) - 1)
    sums = padded * heads * (dim + 1) * 4
    expanded = 2 * tokens * heads * dim * q.element_size() if k.shape[1] != heads else 0
    return sums + expanded
