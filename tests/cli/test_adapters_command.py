"""`lorica adapters` on the command line."""

from pathlib import Path

import pytest
from outcomes import Cli

import tiny_models as tiny
from lorica.lora import attach
from lorica.lora.checkpoint import load_adapter


def adapter(folder: Path, seed: int) -> Path:
    trained = tiny.randomise(attach(tiny.llama(), r=4, alpha=6, target_modules=["q_proj"], seed=seed))
    trained.save(folder)
    return folder


def test_merge_and_resize(cli: Cli, tmp_path: Path) -> None:
    one, other = adapter(tmp_path / "one", 1), adapter(tmp_path / "other", 2)
    found = cli("adapters", "merge", one, other, "--weights", "0.5,2", "--out", tmp_path / "sum", "--json").json
    assert found["path"] == str(tmp_path / "sum") and found["weights"] == [0.5, 2.0]
    told = cli("adapters", "resize", tmp_path / "sum", "--rank", "2", "--out", tmp_path / "small")
    assert told.code == 0 and "rank 2" in told.out and "kept" in told.out
    assert {layer.r for layer in load_adapter(tiny.llama(), tmp_path / "small").layers.values()} == {2}


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--weights", "1,x"], "'x'"), (["--weights", "1"], "one finite number"), (["--method", "sum"], "linear, svd")],
)
def test_wrong_options(options: list[str], told: str, cli: Cli, tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "one", 1), adapter(tmp_path / "other", 2)]
    outcome = cli("adapters", "merge", *folders, *options, "--out", tmp_path / "out")
    assert outcome.code == 1 and told in outcome.err and not (tmp_path / "out").exists()


def test_nothing_is_written_over(cli: Cli, tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", 1)
    before = (one / "adapter_model.safetensors").read_bytes()
    outcome = cli("adapters", "resize", one, "--rank", "1", "--out", one)
    assert outcome.code == 1 and "exists" in outcome.err
    assert (one / "adapter_model.safetensors").read_bytes() == before
