"""Adapters in llama.cpp's format, used: read back, answered with, exported, and refused where they cannot be."""

import shutil
from pathlib import Path

import made
import pytest
import torch
from gguf import GGUFReader

import lorica
import tiny_models as tiny
from bases import write_base
from lorica.adapters import merge_adapters, resize_adapter
from lorica.exporting.quantise import quantise
from lorica.inspection import inspect
from lorica.run.answer import answer
from lorica.run.reopen import open_for_answers

FIELDS = {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"k_proj": 5}}
FIELDS |= {"alpha_pattern": {"down_proj": 3}}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a base, its GGUF file, an adapter, and that as llama.cpp has it."""
    base = write_base(tmp_path / "base")
    quantise(base, "Q8_0", tmp_path / "base.gguf")
    made.write_adapter(tmp_path / "adapter", base, **FIELDS)
    lorica.export(tmp_path / "adapter", "gguf-adapter", out=tmp_path / "out", proof=False)
    shutil.move(tmp_path / "out" / "adapter.gguf", tmp_path / "adapter.gguf")
    return tmp_path


def logits(base: Path, adapter: Path) -> torch.Tensor:
    loaded = lorica.load(base, dtype="fp32")
    lorica.load_adapter(loaded, adapter, allow_other_base=True).eval()
    return tiny.logits(loaded.model, tiny.tokens())


@pytest.mark.parametrize("name", ["base", "base.gguf"])
def test_the_file_computes_what_the_folder_does(there: Path, name: str) -> None:
    found, wanted = (logits(there / name, there / adapter) for adapter in ("adapter.gguf", "adapter"))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_embedding_and_head(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    made.write_adapter(tmp_path / "adapter", base, target_modules=["embed_tokens", "lm_head", "q_proj"])
    assert lorica.export(tmp_path / "adapter", "gguf-adapter", out=tmp_path / "out").ok
    found, wanted = (logits(base, tmp_path / adapter) for adapter in ("out/adapter.gguf", "adapter"))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["base", "base.gguf"])
def test_answers(there: Path, name: str) -> None:
    opened = open_for_answers(str(there / name), adapter=there / "adapter.gguf")
    wanted = open_for_answers(there / "adapter") if name == "base" else opened
    found = answer(opened, "three plus four is", 6).token_ids
    assert found == answer(wanted, "three plus four is", 6).token_ids
    assert found != answer(opened, "three plus four is", 6, use_adapter=False).token_ids


@pytest.mark.parametrize("profile", [None, "vllm"])
def test_to_peft(there: Path, profile: str | None) -> None:
    """PEFT itself computes what the file says, on the base that was given."""
    result = lorica.export(there / "adapter.gguf", "peft", base=there / "base", out=there / "peft", profile=profile)
    assert result.ok and result.proof is not None and result.proof.max_logit_difference < 1e-4
    wanted = made.by_peft(there / "base", there / "adapter", tiny.tokens())
    torch.testing.assert_close(
        made.by_peft(there / "base", there / "peft", tiny.tokens()), wanted, rtol=1e-4, atol=1e-5
    )
    again = lorica.export(there / "peft", "gguf-adapter", out=there / "again")
    assert again.ok and open_for_answers(there / "peft").adapter is not None


@pytest.mark.parametrize("to", ["merged", "gguf", "gguf-adapter"])
def test_to_everything_else(there: Path, to: str) -> None:
    base = there / ("base" if to == "merged" else "base.gguf")
    assert lorica.export(there / "adapter.gguf", to, base=base, out=there / "written").ok
    if to == "gguf-adapter":
        before, after = (GGUFReader(path) for path in (there / "adapter.gguf", there / "written" / "adapter.gguf"))
        for one, other in zip(before.tensors, after.tensors, strict=True):
            assert one.name == other.name and (one.data == other.data).all()
    assert lorica.export(there / "adapter.gguf", to, base=base, proof=False).path == f"{there}/adapter-{to}"


def test_inspected(there: Path) -> None:
    found, folder = inspect(there / "adapter.gguf"), inspect(there / "adapter")
    norms = sorted(module["norm"] for module in folder["modules"])
    assert sorted(module["norm"] for module in found["modules"]) == pytest.approx(norms, rel=1e-5)


def test_refused_with_the_way_to_go(there: Path) -> None:
    file = there / "adapter.gguf"
    with pytest.raises(ValueError, match=r"does not say which model.*MODEL --adapter .*--base MODEL"):
        lorica.load(file)
    with pytest.raises(ValueError, match=r"MODEL --adapter"):
        open_for_answers(file)
    with pytest.raises(ValueError, match="holds an adapter of its own"):
        open_for_answers(there / "adapter", adapter=file)
    with pytest.raises(ValueError, match="give that with --base"):
        lorica.export(file, "peft")
    with pytest.raises(ValueError, match=f"export {file} --to peft --base MODEL"):
        merge_adapters([there / "adapter", file], there / "merged")
    with pytest.raises(ValueError, match=f"export {file} --to peft --base MODEL"):
        resize_adapter(file, there / "merged", rank=2)
    with pytest.raises(ValueError, match="--to peft --base MODEL makes one"):
        inspect(file, base=there / "base")
    other = write_base(there / "other", hidden_size=32)
    with pytest.raises(ValueError, match="belongs to another"):
        lorica.export(file, "peft", base=other)
    with pytest.raises(ValueError, match="holds a model"):
        lorica.load_adapter(lorica.load(there / "base"), there / "base.gguf")
