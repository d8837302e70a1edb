"""The Triton kernels against float64: their arithmetic in Triton's interpreter, and on a GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorica.kernels.dispatch import has_triton

pytestmark = pytest.mark.skipif(not has_triton(), reason="needs Triton, which is not installed")


def test_the_interpreter_agrees_with_float64() -> None:
    check("1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_float64() -> None:
    check("0")


def check(interpret: str) -> None:
    """One process for all of `interpreted.py`: Triton decides at import whether it interprets."""
    here = Path(__file__).parent
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(here / "interpreted.py")]
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stdout[-6000:] + outcome.stderr[-2000:]
    assert " passed" in outcome.stdout and " skipped" not in outcome.stdout
