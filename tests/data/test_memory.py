"""Memory does not grow with the data: a generated file is read, split and sampled in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured through /proc")


def growth(folder: Path, size: int, row_bytes: int, cached: bool) -> dict[str, Any]:
    script = Path(__file__).with_name("streaming.py")
    command = [sys.executable, str(script), str(folder), str(size), str(row_bytes), "cached" if cached else "no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["rows"] == told["seen"] and told["tokens"] > size // 100
    return told


def test_a_file_of_40_mb_needs_less_than_that(tmp_path: Path) -> None:
    assert growth(tmp_path, 40 * MIB, 16_000, cached=False)["grew"] < 25 * MIB


@pytest.mark.soak
@pytest.mark.parametrize("cached", [True, False])
def test_a_file_of_2_gb_needs_no_more(tmp_path: Path, cached: bool) -> None:
    assert growth(tmp_path, 2048 * MIB, 16_000, cached)["grew"] < 60 * MIB


@pytest.mark.soak
def test_many_short_rows_need_their_index_only(tmp_path: Path) -> None:
    told = growth(tmp_path, 200 * MIB, 500, cached=False)
    assert told["rows"] > 300_000 and told["grew"] < 40 * MIB + 200 * told["rows"]
