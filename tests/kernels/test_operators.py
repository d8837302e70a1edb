"""The kernels as torch operators: what a planner, a compiler and a meta tensor see of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lorica import kernels

ROWS, WIDTH = 6, 16


class Recorder(TorchDispatchMode):
    """Names of the operators called under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def arguments(operator: str, device: str, dtype: torch.dtype) -> tuple[Any, ...]:
    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device, dtype=dtype)

    x, weight, heads = draw(ROWS, WIDTH), draw(WIDTH), draw(ROWS, 2, WIDTH // 2)
    cos, sin = draw(2, ROWS, WIDTH // 4).unbind()
    labels = torch.arange(ROWS, device=device)
    k, v = draw(2, ROWS, 1, WIDTH // 2).unbind()
    documents = kernels.Documents.of([2, 1, 3], device)
    lse = torch.rand(2, ROWS, device=device)
    return {
        "attention": (heads, k, v, documents.table, 3, 0.3, 2, 0.0),
        "attention_backward": (heads, heads, k, v, heads, lse, documents.table, 3, 0.3, None, 2.0),
        "rms_norm": (x, weight, 1e-5, 1.0, False),
        "rms_norm_backward_": (x, draw(ROWS, WIDTH), weight, 1e-5, 0.0, draw(ROWS, WIDTH)),
        "rotate_": (heads, cos, sin, False, True),
        "gated": (x, draw(ROWS, WIDTH), "silu"),
        "gated_backward_": (x, draw(ROWS, WIDTH), draw(ROWS, WIDTH), "gelu"),
        "cross_entropy": (x, labels, 1.0, 30.0),
        "cross_entropy_": (x, labels, draw(ROWS), 0.5, 0.0),
    }[operator]


OPERATORS = [
    *("attention", "attention_backward"),
    *("rms_norm", "rms_norm_backward_", "rotate_"),
    *("gated", "gated_backward_", "cross_entropy", "cross_entropy_"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", OPERATORS)
def test_declared_shapes_types_and_mutations_are_the_real_ones(operator: str, dtype: torch.dtype) -> None:
    """torch's own check: the schema against what happens to the arguments, and the fake results against real ones."""
    function = getattr(torch.ops.lorica, operator).default
    torch.library.opcheck(function, arguments(operator, "cpu", dtype), test_utils=("test_schema", "test_faketensor"))


def with_documents(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel called with the operator's arguments, which say `Documents` as a table and the longest length."""

    def call(*arguments: Any) -> Any:
        *tensors, table, _longest, scale, window, softcap = arguments
        return kernel(*tensors, kernels.Documents.of([2, 1, 3], table.device), scale, window, softcap)

    return call


PUBLIC: dict[str, Callable[..., Any]] = {
    "attention": with_documents(kernels.attention),
    "attention_backward": with_documents(kernels.attention_backward),
    "rms_norm": kernels.rms_norm,
    "rms_norm_backward_": kernels.rms_norm_backward,
    "rotate_": kernels.rotate_,
    "gated": kernels.gated,
    "gated_backward_": kernels.gated_backward,
    "cross_entropy": kernels.cross_entropy,
    "cross_entropy_": kernels.cross_entropy_,
}


def shapes(results: Any) -> list[tuple[torch.Size, torch.dtype]]:
    return [(result.shape, result.dtype) for result in ([results] if isinstance(results, Tensor) else results)]


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_planner_sees_one_operator_on_a_gpu_that_is_not_there(operator: str) -> None:
    real = PUBLIC[operator](*arguments(operator, "cpu", torch.bfloat16))
    with FakeTensorMode(), Recorder() as recorder:
        planned = PUBLIC[operator](*arguments(operator, "cuda", torch.bfloat16))
    assert shapes(planned) == shapes(real)
    assert recorder.names.count(f"lorica.{operator}.default") == 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_meta_tensors_have_shapes_only(operator: str) -> None:
    real = PUBLIC[operator](*arguments(operator, "cpu", torch.float32))
    assert shapes(PUBLIC[operator](*arguments(operator, "meta", torch.float32))) == shapes(real)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_processor_is_given_the_reference_itself(operator: str) -> None:
    with Recorder() as recorder:
        PUBLIC[operator](*arguments(operator, "cpu", torch.float32))
    assert recorder.names
    assert not [name for name in recorder.names if name.startswith("lorica")]
