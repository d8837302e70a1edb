"""The precision policy as a table."""

import pytest
import torch

from lorica.models import precision
from lorica.models.precision import choose_device, choose_precision

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("wanted", "stored", "device", "native", "expected"),
    [
        ("auto", BF16, "cpu", True, BF16),
        ("auto", FP16, "cpu", True, BF16),
        ("auto", FP32, "cpu", True, FP32),
        ("auto", BF16, "cpu", False, FP32),
        ("auto", FP16, "cpu", False, FP32),
        ("auto", FP32, "cpu", False, FP32),
        ("auto", FP32, "cuda", True, BF16),
        ("auto", BF16, "cuda", True, BF16),
        ("auto", BF16, "cuda", False, FP32),
        ("auto", BF16, "mps", False, FP32),
        ("bf16", FP32, "cpu", False, BF16),
        ("fp32", BF16, "cuda", True, FP32),
    ],
)
def test_the_policy(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    stored: torch.dtype,
    device: str,
    native: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda _: native)
    chosen = choose_precision(wanted, stored, torch.device(device))
    assert chosen.dtype == expected
    assert chosen.reason


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"system\.device is cuda.*sees.*cpu"):
            choose_device("cuda")


def test_this_cpu_answers() -> None:
    assert precision.multiplies_bf16(torch.device("cpu")) in (True, False)
