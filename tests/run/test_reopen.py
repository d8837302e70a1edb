"""What is opened to be answered with is what was trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorica import attach, load
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
