"""Every fault leaves what stood there before, and nothing half-written."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path

import made
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models as tiny
from lorica import export
from lorica.run import Watcher


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return made.write_model(tmp_path / "base", tiny.llama(), shard="20KB")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return made.write_adapter(tmp_path / "adapter", base)[0]


def refuse(tmp_path: Path, told: str, call: Callable[[], object], error: type[BaseException] = ValueError) -> None:
    """The call fails so, and the folder holds what it held."""
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(error, match=told or None):
        call()
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_something_stands_there(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    refuse(tmp_path, "exists already", lambda: export(adapter, "merged", out=out))
    refuse(tmp_path, "not an export", lambda: export(adapter, "merged", out=out, overwrite=True))
    assert (out / "thesis.txt").read_text() == "mine"


def test_an_earlier_export_is_replaced_when_asked(adapter: Path, tmp_path: Path) -> None:
    export(adapter, "peft", out=tmp_path / "out", proof=False)
    refuse(tmp_path, "--overwrite", lambda: export(adapter, "merged", out=tmp_path / "out"))
    export(adapter, "merged", out=tmp_path / "out", proof=False, overwrite=True)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    made.by_transformers(tmp_path / "out", tiny.tokens())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "out"]


def test_a_link_to_an_earlier_export_stays_a_link(adapter: Path, tmp_path: Path) -> None:
    export(adapter, "peft", out=tmp_path / "large disk" / "out", proof=False)
    (tmp_path / "out").symlink_to(tmp_path / "large disk" / "out")
    export(adapter, "merged", out=tmp_path / "out", proof=False, overwrite=True)
    made.by_transformers(tmp_path / "large disk" / "out", tiny.tokens())
    assert (tmp_path / "out").is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter", "base", "large disk", "out",
    ]  # fmt: skip


def test_an_export_of_the_folder_that_one_stands_in_lies_beside_it(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(adapter.iterdir())
    monkeypatch.chdir(adapter)
    assert Path(export(".", "peft", proof=False).path) == tmp_path / "adapter-peft"
    assert sorted(adapter.iterdir()) == before
    card = (tmp_path / "adapter-peft" / "README.md").read_text()
    assert str(tmp_path) not in card and 'base_model: "base"' in card


def test_no_space(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
    refuse(tmp_path, "takes 49.1 kB, and there is 5.0 kB free", lambda: export(adapter, "merged", out=tmp_path / "out"))


def test_interrupted_while_writing_and_while_proving(adapter: Path, tmp_path: Path) -> None:
    class Stopping(Watcher):
        def __init__(self, at: str) -> None:
            self.at = at

        def stage(self, name: str, done: int, total: int) -> None:
            if name == self.at and done > 1:
                raise KeyboardInterrupt

    for at in ("writing tensors", "running the export"):
        call = partial(export, adapter, "merged", out=tmp_path / "out", watcher=Stopping(at))
        refuse(tmp_path, "", call, KeyboardInterrupt)


def test_a_truncated_shard(adapter: Path, base: Path, tmp_path: Path) -> None:
    shard = sorted(base.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    refuse(tmp_path, f"{shard.name} is damaged", lambda: export(adapter, "merged", out=tmp_path / "out"))
    shard.unlink()
    refuse(tmp_path, "lacks 1 of its", lambda: export(adapter, "merged", out=tmp_path / "out"))


def test_another_base(adapter: Path, base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    shard = sorted(other.glob("*.safetensors"))[0]
    save_file({name: tensor + 0.01 for name, tensor in load_file(shard).items()}, shard, {"format": "pt"})
    out = tmp_path / "out"
    for to in ("merged", "peft"):
        refuse(
            tmp_path, "trained on a base whose weights hash to", lambda to=to: export(adapter, to, out=out, base=other)
        )
    assert export(adapter, "merged", out=out, base=other, allow_other_base=True).ok


def test_what_is_not_there(adapter: Path, base: Path, tmp_path: Path) -> None:
    refuse(tmp_path, "does not exist", lambda: export(tmp_path / "nowhere", "peft"))
    refuse(tmp_path, "holds neither a run nor an adapter", lambda: export(base, "peft"))
    base.rename(tmp_path / "moved")
    refuse(tmp_path, "say where with --base", lambda: export(adapter, "peft"))
    assert export(adapter, "peft", out=tmp_path / "out", base=tmp_path / "moved").ok


def test_combinations_that_mean_nothing(adapter: Path, tmp_path: Path) -> None:
    refuse(tmp_path, "nothing that can be exported to", lambda: export(adapter, "onnx"))
    refuse(tmp_path, "profiles are for peft", lambda: export(adapter, "merged", profile="vllm"))
    refuse(tmp_path, "there is vllm", lambda: export(adapter, "peft", profile="tgi"))
    refuse(tmp_path, "one of F32, F16, BF16 here", lambda: export(adapter, "merged", type="Q4_K"))
    refuse(tmp_path, "as it was trained", lambda: export(adapter, "peft", type="F16"))


def test_a_weight_of_the_base_that_a_type_cannot_hold(tmp_path: Path) -> None:
    """One that the adapter leaves alone: bf16 reaches further than the fp16 that is asked for."""
    model = tiny.llama()
    with torch.no_grad():
        model.model.norm.weight[3] = 1e5
    base = made.write_model(tmp_path / "base", model, torch.bfloat16)
    folder, _ = made.write_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    call = partial(export, folder, "merged", out=tmp_path / "out", type="F16", proof=False)
    refuse(tmp_path, r"model\.norm\.weight would hold NaN or infinite", call)


def test_values_that_a_type_cannot_hold(base: Path, tmp_path: Path) -> None:
    folder, _ = made.write_adapter(tmp_path / "adapter", base, size=9.0, alpha=65536, target_modules=["q_proj"], r=1)
    refuse(tmp_path, "NaN or infinite", lambda: export(folder, "merged", out=tmp_path / "out", type="F16"))
    assert torch.isfinite(load_file(folder / "adapter_model.safetensors").popitem()[1]).all()
