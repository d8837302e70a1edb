"""Bad input: one clear paragraph that says what, where and what to do, and nothing is written or lost."""

import contextlib
import errno
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_run
from safetensors.torch import load_file, save_file

import lorica
from bases import sums, write_base, write_rows
from lorica.run import Watcher
from lorica.run.answer import answer
from lorica.run.reopen import open_for_answers
from lorica.training.checkpoint import Progress
from lorica.training.loop import Loop
from lorica.training.run_folder import RunFolder

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A base of one's own, to be spoilt."""
    return shutil.copytree(tiny_base, tmp_path / "base")


def refused(values: dict[str, Any], told: str, **options: Any) -> str:
    """Train must raise a ValueError that matches `told`, is one paragraph, and leaves no run behind."""
    with pytest.raises(ValueError, match=told) as raised:
        lorica.train(**values, **options)
    message = str(raised.value)
    assert "\n\n" not in message
    assert "out" not in values or not (Path(values["out"]) / "config.yaml").exists()
    return message


def _missing(folder: Path) -> None:
    (folder / "rows.jsonl").unlink()


def _empty(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("")


def _broken_line(folder: Path) -> None:
    path = folder / "rows.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], lines[6][:-9], *lines[7:]]))


def _row_without_fields(folder: Path) -> None:
    write_rows(folder / "rows.jsonl", [*sums(4), {"prompt": "no completion"}])


def _all_too_long(folder: Path) -> None:
    write_rows(folder / "rows.jsonl", [{"prompt": "x" * 200, "completion": "y"}])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_missing, r"rows\.jsonl does not exist"),
        (_empty, r"rows\.jsonl holds no rows"),
        (_broken_line, r"rows\.jsonl:7"),
        (_row_without_fields, r"rows\.jsonl:5"),
        (_all_too_long, r"rows\.jsonl:1\)\. 1 of 1 examples are longer than max_length = 96 tokens"),
    ],
)
def test_data(settings: Settings, tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    values = settings()
    spoil(tmp_path)
    refused(values, told)


def test_all_rows_dropped_as_too_long(settings: Settings, tmp_path: Path) -> None:
    values = settings(data={"path": settings()["data"], "too_long": "drop"})
    _all_too_long(tmp_path)
    refused(values, "None of the 1 rows trains anything")


def test_held_out_file_missing(settings: Settings) -> None:
    refused(settings(evaluate={"held_out": "absent.jsonl"}), r"absent\.jsonl does not exist")


def test_evaluations_need_held_out_rows(settings: Settings, tmp_path: Path) -> None:
    few = write_rows(tmp_path / "few.jsonl", sums(3))
    told = refused(
        settings(data=str(few), evaluate={"held_out": "auto", "every": 2}), r"evaluate\.every is 2, but no rows"
    )
    assert "evaluate.held_out" in told


def test_a_warmup_beyond_the_run(settings: Settings) -> None:
    refused(settings(train={"steps": None, "epochs": 1, "warmup": 9}), r"train\.warmup is 9 steps, and the run has 8")


def _without_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()


def _pickle(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def _cut_weights(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _edited(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(base: Path) -> None:
        tensors = load_file(base / "model.safetensors")
        change(tensors)
        save_file(tensors, base / "model.safetensors", {"format": "pt"})

    spoil.__name__ = name
    return spoil


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")


def _no_config(base: Path) -> None:
    (base / "config.json").unlink()


def _broken_config(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": ')


def _no_tokenizer(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()


def _own_code(base: Path) -> None:
    values = json.loads((base / "config.json").read_text())
    values |= {"auto_map": {"AutoConfig": "code.Config"}, "model_type": "of_my_own"}
    (base / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_weights, r"holds no model\.safetensors"),
        (_pickle, r"pytorch_model\.bin, a pickle"),
        (_cut_weights, r"damaged|cannot be loaded"),
        (_edited("nan", _nan), r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"),
        (_edited("tensor missing", lambda t: t.pop("model.norm.weight")), r"lacks 1 tensors .*model\.norm\.weight"),
        (_no_config, r"has no config\.json"),
        (_broken_config, r"config\.json is not valid JSON"),
        (_no_tokenizer, r"has no tokenizer"),
        (_own_code, r"needs code of its own"),
    ],
)
def test_model(settings: Settings, base: Path, spoil: Callable[[Path], None], told: str) -> None:
    spoil(base)
    assert str(base) in refused(settings(model=str(base)), told)


def test_model_that_is_not_there(settings: Settings, tmp_path: Path) -> None:
    refused(settings(model=str(tmp_path / "absent")), r"absent does not exist; expected a directory")


def test_tokens_beyond_the_vocabulary(settings: Settings, tmp_path: Path) -> None:
    base = write_base(tmp_path / "small", vocab_size=280)
    told = refused(settings(model=str(base)), r"rows\.jsonl:1, .*The tokenizer gives token \d+")
    assert "embeddings for 280 tokens" in told
    opened = open_for_answers(base)
    with pytest.raises(ValueError, match="the prompt: the tokenizer"):
        answer(opened, "three<|end|>", 2)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"evaluate": {"metric": "exactmatch"}}, "exact_match"),
        ({"evaluate": {"metric": "no_such_module:f"}}, "no module 'no_such_module'"),
        ({"evaluate": {"metric": "math:no_such_function"}}, "no function 'no_such_function'"),
        ({"train": {"learning_rate": 1e-4}}, r"train\.learning_rate"),
        ({"system": {"trackers": ["wandb"]}}, r"has wandb, which is not installed; .*lorica\[track\]"),
        ({"lora": {"target_modules": ["qproj"]}}, "qproj"),
        ({"train": {"lr": -1}}, r"train\.lr"),
    ],
)
def test_settings(settings: Settings, sections: dict[str, Any], told: str) -> None:
    refused(settings(**sections), told)


def test_a_metric_that_fails_names_the_row_and_can_be_mended(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "own_metric.py"
    module.write_text("def closeness(prediction, reference, prompt):\n    return len(reference) / 0\n")
    values = settings(evaluate={"metric": "own_metric:closeness"})
    with pytest.raises(
        ValueError, match=r"own_metric:closeness.* failed on row .*rows\.jsonl:\d+ with ZeroDivisionError"
    ):
        lorica.train(**values)
    monkeypatch.delitem(__import__("sys").modules, "own_metric")
    module.write_text("def closeness(prediction, reference, prompt):\n    return 0.25\n")
    report = lorica.train(resume=values["out"]).report
    assert report is not None and report["after"]["metrics"] == {"own_metric:closeness": 0.25}


@pytest.mark.parametrize("out", ["file", "file/below", "file/below/deeper", "file" * 99])
def test_a_run_folder_that_cannot_be_made(settings: Settings, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"run folder .*file.* cannot be written"):
        lorica.train(**settings(out))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_with_other_files_keeps_them(settings: Settings) -> None:
    out = Path(settings()["out"])
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    lorica.train(**settings())
    assert (out / "notes.txt").read_text() == "mine"


def test_an_adapter_on_another_base(settings: Settings, base: Path) -> None:
    run = Path(lorica.train(**settings(model=str(base), train={"steps": 1})).run)
    shutil.rmtree(base)
    write_base(base, seed=1)
    with pytest.raises(ValueError, match=r"was trained on a base whose weights hash to .*allow_other_base"):
        open_for_answers(run)
    assert open_for_answers(run, allow_other_base=True).adapter is not None
    with pytest.raises(ValueError, match="was trained on a base"):
        open_for_answers(run / "adapter")


def test_an_unfinished_run_does_not_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    values = settings()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(RunFolder, "append_metrics", fail)
    with pytest.raises(ValueError, match=r"Input/output error.*train --resume"):
        lorica.train(**values)
    with pytest.raises(ValueError, match=r"is not finished. Finish it with: lorica train --resume"):
        open_for_answers(values["out"])


class FillsTheDisk(Watcher):
    """Fills the file system of `folder` to its last page when a step is recorded, or after training."""

    def __init__(self, folder: Path, step: int) -> None:
        self.filler, self.step = folder / "filler", step

    def record(self, record: dict[str, Any], total_steps: int) -> None:
        if record["step"] != self.step:
            return
        with open(self.filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 512)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("needs mount")
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("step", [3, 8])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_disk_full_while_saving_a_checkpoint(settings: Settings, small_disk: Path, step: int, method: str) -> None:
    options: dict[str, Any] = {"method": method, "system": {"checkpoint_every": 2}}
    options |= {"lora": None} if method == "full" else {}
    whole = lorica.train(**settings("whole", **options))
    values = settings(**options) | {"out": str(small_disk / "run")}
    with pytest.raises(ValueError, match=r"stopped, because .*No space left on device: .*train --resume"):
        lorica.train(watcher=FillsTheDisk(small_disk, step), **values)
    assert all(path.name.startswith("step-") for path in (small_disk / "run" / "checkpoints").iterdir())
    (small_disk / "filler").unlink()
    lorica.train(resume=values["out"])
    assert_same_run(values["out"], whole.run)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("free", [3 << 10, 12 << 10, 40 << 10])
def test_disk_full_while_saving_the_result(
    settings: Settings, small_disk: Path, monkeypatch: pytest.MonkeyPatch, method: str, free: int
) -> None:
    """Libraries written in Rust do not raise OSError there."""
    options: dict[str, Any] = {"method": method, "train": {"steps": 2}} | ({"lora": None} if method == "full" else {})
    values = settings(**options) | {"out": str(small_disk / "run")}
    finished = Loop.train

    def train_then_fill(loop: Loop) -> Progress:
        progress = finished(loop)
        FillsTheDisk(small_disk, 2).record({"step": 2}, 2)
        with open(small_disk / "filler", "r+b") as file:
            file.truncate(max(0, (small_disk / "filler").stat().st_size - free))
        return progress

    monkeypatch.setattr(Loop, "train", train_then_fill)
    with pytest.raises(ValueError, match=r"stopped, because .*(No space left on device).*train --resume"):
        lorica.train(**values)
    monkeypatch.undo()
    (small_disk / "filler").unlink()
    assert lorica.train(resume=values["out"]).steps == 2


def test_out_of_memory_says_how_to_need_less(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity ...")

    values = settings()
    monkeypatch.setattr(Loop, "accumulate", exhausted)
    with pytest.raises(ValueError, match=r"ran out of memory \(CUDA out of memory\).*system\.checkpointing=full"):
        lorica.train(**values)
    monkeypatch.undo()
    options = ["system.tokens_per_microbatch=256", "system.checkpointing=full"]
    assert lorica.train(resume=values["out"], overrides=options).steps == 8
