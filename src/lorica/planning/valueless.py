"""Computing with tensors that have shapes and no values.

For a GPU these are torch's meta tensors, on which the kernels of `lorica.kernels` are single operators, as they are on
the GPU. For a CPU they are fake tensors, which say that they are on a CPU and so take the same way as real ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Valueless(TorchDispatchMode):
    """Inside, code that reads a value of a tensor without any reads zero (or false), and a copy from it to the host
    leaves there what memory held."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is aten._local_scalar_dense.default and _is_valueless(args[0]):
            dtype = args[0].dtype
            return False if dtype == torch.bool else 0.0 if dtype.is_floating_point else 0
        if function is aten.equal.default and _is_valueless(args[0]):
            return False
        if function is aten._grouped_mm.default and _is_valueless(args[0]):
            return grouped_product(*args[:3])
        if function is aten.copy_.default and args[0].is_cpu and args[1].is_meta and not _is_valueless(args[0]):
            return args[0]
        return function(*args, **(kwargs or {}))


def grouped_product(left: Tensor, right: Tensor, ends: Tensor | None = None) -> Tensor:
    """The shape of the products of experts that are joined along one side; torch's own rule knows bf16 alone."""
    if left.dim() == right.dim() == 2:
        assert ends is not None
        return left.new_empty(len(ends), left.shape[0], right.shape[1])
    return left.new_empty(*left.shape[:-1][right.dim() == 2 :], right.shape[-1])


def _is_valueless(x: Tensor) -> bool:
    return x.is_meta or isinstance(x, FakeTensor)


class StandIns:
    """A place where `model`, whose parameters are on the meta device, computes as one on `device` would. Its tensors
    are exchanged in place, so that whatever refers to them goes on doing so."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True) if device.type == "cpu" else None
        _exchange(model, self.stand_in)

    def stand_in(self, tensor: Tensor) -> Tensor:
        meta = tensor.detach().to("meta")
        return meta if self.fakes is None else FakeTensor(self.fakes, meta, torch.device("cpu"))

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.fakes or nullcontext(), Valueless():
            yield


def _exchange(model: nn.Module, other: Callable[[Tensor], Tensor]) -> None:
    seen: set[int] = set()
    for tensor in chain(model.parameters(), model.buffers()):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        new = other(tensor)
        new.requires_grad_(tensor.requires_grad)
        if isinstance(tensor, nn.Parameter):
            new._is_param = True  # as nn.Parameter does with tensors of other types
        torch.utils.swap_tensors(tensor, new)
