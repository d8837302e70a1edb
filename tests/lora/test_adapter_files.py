"""Adapter folders: reproducible bytes, nothing ignored, and every refusal leaves folder and model as they were."""

import itertools
import json
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tiny_models as tiny
from lorica.adapters import merge_adapters
from lorica.lora import attach, load_adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FIELDS: dict[str, Any] = {
    "r": 3,
    "alpha": 7,
    "target_modules": ["q_proj", "down_proj", "embed_tokens"],
    "modules_to_save": ["norm"],
    "rank_pattern": {"up_proj|q_proj": 2},
}


@dataclass
class Loaded:
    """What `lorica.load` returns, as far as adapters need it."""

    model: Any
    name: str = "tiny"
    hashes: dict[str, str] = field(default_factory=lambda: {"base": "b" * 64, "tokenizer": "t" * 64})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "адаптер ü"
    tiny.randomise(attach(Loaded(tiny.llama()), **FIELDS)).save(folder)
    return folder


def untouched(model: Any) -> list[str]:
    return [name for name, _ in model.named_modules()]


def refuse(folder: Path, told: str, model: Any = None) -> None:
    """Loading raises ValueError in one paragraph, and the model carries nothing afterwards."""
    base = model or tiny.llama()
    module = getattr(base, "model", base) if isinstance(base, Loaded) else base
    before = untouched(module)
    with pytest.raises(ValueError, match=told) as caught:
        load_adapter(base, folder)
    assert "\n" not in str(caught.value)
    assert untouched(module) == before


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors and keep the metadata."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata)


SAVE = """
import sys, torch
from torch import nn
from lorica.lora import attach
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 4), nn.Embedding(6, 3), nn.LayerNorm(3))
adapter = attach(model, r=3, use_dora=True, target_modules=["0", "1"], modules_to_save=["2"])
adapter.provenance = {"tokenizer": "t", "base": "b", "template": "c"}
adapter.save(sys.argv[1])
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "here")])
    script = tmp_path / "save.py"
    script.write_text(SAVE)
    runpy.run_path(str(script), run_name="save")
    arguments = [sys.executable, str(script), str(tmp_path / "there")]
    subprocess.run(arguments, check=True, env={"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"})
    here, there = (sorted((tmp_path / name).iterdir()) for name in ("here", "there"))
    assert [file.name for file in here] == [file.name for file in there] == [CONFIG, WEIGHTS]
    assert [file.read_bytes() for file in here] == [file.read_bytes() for file in there]


def test_provenance_travels(saved: Path) -> None:
    adapter = load_adapter(Loaded(tiny.llama()), saved)
    assert adapter.provenance == {"base": "b" * 64, "tokenizer": "t" * 64}
    assert adapter.notes == []
    assert json.loads((saved / CONFIG).read_text())["base_model_name_or_path"] == "tiny"
    with safe_open(saved / WEIGHTS, "pt") as file:
        assert list(file.keys()) == sorted(file.keys())


def test_another_base_is_refused_unless_it_is_meant(saved: Path) -> None:
    other = Loaded(tiny.llama(), hashes={"base": "c" * 64})
    refuse(saved, r"bbbbbbbbbbbb.*cccccccccccc.*allow_other_base", other)
    adapter = load_adapter(other, saved, allow_other_base=True)
    assert adapter.provenance["base"] == "b" * 64
    adapter.detach()
    attached = attach(other, **FIELDS)
    with pytest.raises(ValueError, match="allow_other_base"):
        attached.load(saved)
    attached.load(saved, allow_other_base=True)
    load_adapter(tiny.llama(), saved)  # a base of unknown hash


def test_another_tokenizer_is_said(saved: Path) -> None:
    other = Loaded(tiny.llama(), hashes={"base": "b" * 64, "tokenizer": "u" * 64})
    [note] = load_adapter(other, saved).notes
    assert "another tokenizer" in note


def first(tensors: dict[str, torch.Tensor], ending: str) -> str:
    return next(key for key in sorted(tensors) if key.endswith(ending))


def test_a_missing_tensor(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors.pop(first(tensors, "q_proj.lora_B.weight")))
    refuse(saved, r"misses 1 tensors .*layers.0.self_attn.q_proj.lora_B.weight.*nothing was loaded")


def test_a_module_without_its_tensors(saved: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if "layers.1.mlp.down_proj" in key]:
            del tensors[key]

    rewrite(saved, drop)
    refuse(saved, "misses 2 tensors .*layers.1.mlp.down_proj")


def test_an_unexpected_tensor(saved: Path) -> None:
    rewrite(
        saved,
        lambda tensors: tensors.update(
            {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(3, 24)}
        ),
    )
    refuse(saved, "has unexpectedly 1 tensors .*up_proj")


def test_tensors_of_another_model(saved: Path) -> None:
    rewrite(
        saved, lambda tensors: tensors.update({"base_model.model.transformer.h.0.lora_A.weight": torch.ones(3, 24)})
    )
    refuse(saved, "transformer.h.0.*LlamaForCausalLM does not have")


def test_a_wrong_shape(saved: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors, "q_proj.lora_A.weight")] = torch.ones(2, 25)

    rewrite(saved, widen)
    refuse(saved, r"q_proj.lora_A.weight is \(2, 25\), expected \(2, 24\)")
    refuse(saved, r"embed_tokens.lora_embedding_A|q_proj", tiny.llama(vocab_size=77))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(saved: Path, value: float) -> None:
    rewrite(saved, lambda tensors: tensors[first(tensors, "norm.weight")].view(-1)[3:4].fill_(value))
    refuse(saved, "norm.weight holds NaN or infinite")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file(saved: Path, share: float) -> None:
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: int(len(data) * share)])
    refuse(saved, f"{WEIGHTS} is damaged")


def test_damaged_metadata(saved: Path) -> None:
    save_file(load_file(saved / WEIGHTS), saved / WEIGHTS, {"lorica": "{not json"})
    refuse(saved, f"{WEIGHTS} is damaged")
    for metadata in ('["a list"]', '{"base": 5}', '{"weights": ["nf4"]}'):
        save_file(load_file(saved / WEIGHTS), saved / WEIGHTS, {"lorica": metadata})
        refuse(saved, f"{WEIGHTS} is damaged", Loaded(tiny.llama()))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_a_pickle(saved: Path, name: str) -> None:
    (saved / WEIGHTS).rename(saved / name)
    refuse(saved, f"{name}, a pickle.*safetensors only")


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    (saved / CONFIG).unlink()
    refuse(saved, f"without their {CONFIG}.*again")
    refuse(tmp_path, f"holds no {WEIGHTS}")
    refuse(tmp_path / "nowhere", "nowhere")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds a list"),
        ("\udce9", "not valid JSON"),
        ('{"peft_type": "LORA", "r": 0}', "r is 0"),
        ('{"peft_type": "LORA", "r": 3, "target_modules": null}', "target_modules|misses|unexpectedly"),
        ('{"peft_type": "IA3"}', "IA3"),
    ],
)
def test_a_damaged_config(saved: Path, content: str, told: str) -> None:
    (saved / CONFIG).write_bytes(content.encode(errors="surrogateescape"))
    refuse(saved, told)


def test_a_config_that_does_not_fit_its_tensors(saved: Path) -> None:
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | {"r": 4}))
    refuse(saved, r"expected \(4, ")
    (saved / CONFIG).write_text(json.dumps(config | {"use_dora": True}))
    refuse(saved, "misses .*lora_magnitude_vector")


def test_a_model_that_carries_an_adapter(saved: Path) -> None:
    model = tiny.llama()
    attach(model, r=2)
    refuse(saved, "already carries an adapter", model)


def test_a_failed_load_into_an_adapter_changes_nothing(saved: Path) -> None:
    adapter = tiny.randomise(attach(tiny.llama(), **FIELDS), 0.3)
    before = {name: tensor.clone() for name, tensor in adapter.state().items()}
    rewrite(saved, lambda tensors: tensors[sorted(tensors)[-1]].fill_(float("nan")))
    with pytest.raises(ValueError, match="NaN"):
        adapter.load(saved)
    assert all(torch.equal(adapter.state()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("changed", [{"alpha": 9}, {"use_rslora": True}, {"trainable_token_indices": [5, 3]}])
def test_weights_mean_something_else_under_other_settings(changed: dict[str, Any], tmp_path: Path) -> None:
    fields = {"r": 3, "alpha": 8, "target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}
    saved = tiny.randomise(attach(tiny.llama(), **fields), 0.3)
    saved.save(tmp_path)
    again = attach(tiny.llama(), **fields)
    again.load(tmp_path)
    assert all(torch.equal(again.state()[name], tensor) for name, tensor in saved.state().items())
    with pytest.raises(ValueError, match=r"has the scale|rows of other tokens"):
        attach(tiny.llama(), **fields | changed).load(tmp_path)


def test_a_loaded_adapter_drops_nothing(tmp_path: Path) -> None:
    adapter = tiny.randomise(attach(tiny.llama(), r=3, alpha=8, dropout=0.5))
    adapter.save(tmp_path)
    loaded = load_adapter(tiny.llama(), tmp_path)
    assert torch.equal(tiny.logits(loaded.model, tiny.tokens()), tiny.logits(adapter.eval().model, tiny.tokens()))


def test_an_adapter_that_is_not_finite_is_not_saved(saved: Path) -> None:
    before = [(file.name, file.read_bytes()) for file in sorted(saved.iterdir())]
    adapter = attach(tiny.llama(), **FIELDS)
    adapter.parameters()[2].data.view(-1)[1] = float("inf")
    with pytest.raises(ValueError, match=r"not saved.*infinite"):
        adapter.save(saved)
    assert [(file.name, file.read_bytes()) for file in sorted(saved.iterdir())] == before


def test_a_full_disk_leaves_the_former_adapter(saved: Path) -> None:
    before = [(file.name, file.read_bytes()) for file in sorted(saved.iterdir())]
    adapter = tiny.randomise(attach(tiny.llama(), r=3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # writing past it fails, as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            adapter.save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(file.name, file.read_bytes()) for file in sorted(saved.iterdir())] == before
    load_adapter(tiny.llama(), saved)


def killed_before(change: int, act: Callable[[], object]) -> bool:
    """Whether `act`, in a process of its own, was killed just before its file operation of that number, from 1."""
    process = os.fork()
    if process == 0:
        numbers = itertools.count(1)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("open", "os.rename", "os.remove") and next(numbers) == change:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        with suppress(BaseException):
            act()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def in_lorica(folder: Path) -> torch.Tensor:
    return tiny.logits(load_adapter(tiny.llama(), folder).model, tiny.tokens())


def in_peft(folder: Path) -> torch.Tensor:
    return tiny.logits(PeftModel.from_pretrained(tiny.llama(), folder).eval(), tiny.tokens())


def merge(folder: Path, former: Path) -> None:
    merge_adapters([former, former], folder, [1.0, 2.0])


def save_again(folder: Path, alpha: float) -> None:
    tiny.randomise(attach(tiny.llama(), r=3, alpha=alpha, target_modules=["q_proj"]), 0.5).save(folder)


@pytest.mark.parametrize(
    ("replace", "cut_short"),
    [(partial(save_again, alpha=5), True), (partial(save_again, alpha=7), False), (merge, True)],
)
def test_killed_while_it_replaces_an_adapter(replace: Callable[[Path], None], cut_short: bool, tmp_path: Path) -> None:
    """At every moment either reader has the former adapter, or the new one, or refuses. Where the two have the same
    config, there is no such moment that refuses."""
    former, new, folder = tmp_path / "former", tmp_path / "new", tmp_path / "folder"
    tiny.randomise(attach(tiny.llama(), r=3, alpha=7, target_modules=["q_proj"])).save(former)
    act = partial(replace, former=former) if replace is merge else replace
    act(new)
    whole = [[read(path) for path in (former, new)] for read in (in_lorica, in_peft)]
    refused, change = 0, 1
    while True:
        shutil.copytree(former, folder)
        killed = killed_before(change, partial(act, folder))
        try:
            assert any(torch.equal(in_lorica(folder), one) for one in whole[0])
            assert any(torch.equal(in_peft(folder), one) for one in whole[1])
        except ValueError as error:
            assert "without their adapter_config.json" in str(error) and "again" in str(error)
            with pytest.raises(ValueError, match=CONFIG):
                in_peft(folder)
            refused += 1
        if not killed:
            break
        shutil.rmtree(folder)
        change += 1
    assert torch.equal(in_lorica(folder), whole[0][1])
    assert bool(refused) == cut_short
