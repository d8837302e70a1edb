"""What is opened to be answered with is what was trained on."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lorica import attach, export, load
from lorica.inspection import inspect
from lorica.run.reopen import open_for_answers


def test_an_adapter_on_a_version_of_a_hub_model(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(load(tiny_base), r=2).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    hub = {"base_model_name_or_path": "someone/tiny", "revision": "v1.2"}
    path.write_text(json.dumps(json.loads(path.read_text()) | hub))
    asked: list[Any] = []

    def download(name: str, revision: str | None = None, **_: Any) -> str:
        asked.append((name, revision))
        return str(tiny_base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert open_for_answers(tmp_path).adapter is not None
    assert asked == [("someone/tiny", "v1.2")]


@pytest.mark.parametrize("look", [open_for_answers, inspect, partial(export, to="peft")])
def test_what_is_wrong_is_said_alike(look: Callable[[Path], Any], tiny_base: Path, tmp_path: Path) -> None:
    attach(load(tiny_base), r=2).save(tmp_path / "half")
    (tmp_path / "half" / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"weights without their adapter_config\.json"):
        look(tmp_path / "half")
    run = tmp_path / "sweep" / "best"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(ValueError, match=rf"is a sweep's; the best run is {run}"):
        look(tmp_path / "sweep")


@pytest.mark.parametrize("look", [open_for_answers, partial(export, to="peft")])
def test_an_adapter_whose_base_was_moved(look: Callable[[Path], Any], tiny_base: Path, tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_base, base)
    attach(load(base), r=2).save(folder)
    base.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=rf"say where with --base, .* as the model, with --adapter {folder}"):
        look(folder)
    assert open_for_answers(tmp_path / "moved", adapter=folder).adapter is not None


def test_the_tokenizer_that_was_saved_with_the_training_is_used(tiny_base: Path, tmp_path: Path) -> None:
    base = load(tiny_base)
    attach(base, r=2).save(tmp_path)
    base.tokenizer.add_tokens(["<новый>"])
    base.tokenizer.chat_template = "{{ messages[0].content }}"
    base.tokenizer.save_pretrained(tmp_path)
    for base_only in (False, True):
        opened = open_for_answers(tmp_path, base_only=base_only)
        assert opened.conversational and (opened.adapter is None) == base_only
        assert opened.base.tokenizer("<новый>", add_special_tokens=False)["input_ids"] == [len(base.tokenizer) - 1]
