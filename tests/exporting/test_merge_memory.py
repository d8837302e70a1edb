"""A merge holds a few tensors, whatever the size of the model."""

import json
import subprocess
import sys
from pathlib import Path

import made
import pytest
import torch

import tiny_models as tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured through /proc")


def test_a_merge_needs_no_more_than_a_shard(tmp_path: Path) -> None:
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "max_position_embeddings": 64}
    base = made.write_model(tmp_path / "base", tiny.llama(**sizes), torch.bfloat16, shard="24MB")
    assert len(list(base.glob("*.safetensors"))) >= 6  # of 160 MB
    folder, _ = made.write_adapter(tmp_path / "adapter", base)
    script = Path(__file__).with_name("merging.py")
    command = [sys.executable, str(script), str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    largest = 2048 * 768 * 4  # a tensor in fp32, of which a sum takes a few
    assert told["grew"] < told["shard"] + 8 * largest, told
