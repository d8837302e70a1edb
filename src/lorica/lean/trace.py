"""What a module calls, in order, with what it gave them and what it got: the structure of a model as it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorica.lora.layer import LoraLayer


@dataclass(frozen=True, eq=False)
class Call:
    """One call of `module`. Its tensors live as long as the trace, so equal memory means one tensor."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def input(self) -> Tensor:
        found = next((value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)), None)
        return torch.empty(0) if found is None else found

    @property
    def hidden(self) -> Tensor:
        """What it gave, or the first part of it."""
        found: Any = self.output[0] if isinstance(self.output, tuple) else self.output
        return found if isinstance(found, Tensor) else torch.empty(0)


@contextmanager
def recorded(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[list[Call]]:
    """Inside, calls of `modules` are added to the list, as they return."""
    calls: list[Call] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: calls.append(Call(name, module, args, kwargs, output))

    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def parts_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules inside `module` with their names; an adapted layer is one part."""
    for name, child in module.named_children():
        yield prefix + name, child
        if not isinstance(child, LoraLayer):
            yield from parts_of(child, f"{prefix}{name}.")


def first(output: Any) -> Tensor:
    """The hidden states among what a module returned."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def same(left: Tensor, right: Tensor) -> bool:
    """Whether both are all of one tensor's memory, in whatever shape."""
    return left.numel() == right.numel() and begin_together(left, right)


def begin_together(left: Tensor, right: Tensor) -> bool:
    """Whether both begin at one element of one storage, which tensors without values have too."""
    one_storage = left.untyped_storage()._cdata == right.untyped_storage()._cdata
    return one_storage and left.storage_offset() == right.storage_offset()
