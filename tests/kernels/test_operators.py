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
    return {
        "rms_norm": (x, weight, 1e-5, 1.0, False),
        "add_rms_norm_": (x, draw(ROWS, WIDTH), weight, 1e-5, 0.0, True),
        "rms_norm_backward_": (x, draw(ROWS, WIDTH), weight, 1e-5, 0.0, draw(ROWS, WIDTH)),
        "rotate_": (heads, cos, sin, False, True),
        "gated": (x, draw(ROWS, WIDTH), "silu"),
        "gated_backward_": (x, draw(ROWS, WIDTH), draw(ROWS, WIDTH), "gelu"),
        "cross_entropy": (x, labels, 1.0, 30.0, 0.0),
        "cross_entropy_": (x, labels, draw(ROWS), 1.0, 0.0, 0.1),
    }[operator]


OPERATORS = [
    *("rms_norm", "add_rms_norm_", "rms_norm_backward_", "rotate_"),
    *("gated", "gated_backward_", "cross_entropy", "cross_entropy_"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", OPERATORS)
def test_declared_shapes_types_and_mutations_are_the_real_ones(operator: str, dtype: torch.dtype) -> None:
    """torch's own check: the schema against what happens to the arguments, and the fake results against real ones."""
    function = getattr(torch.ops.lorica, operator).default
    torch.library.opcheck(function, arguments(operator, "cpu", dtype), test_utils=("test_schema", "test_faketensor"))


PUBLIC: dict[str, Callable[..., Any]] = {
    "rms_norm": kernels.rms_norm,
    "add_rms_norm_": kernels.add_rms_norm_,
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
