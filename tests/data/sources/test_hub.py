"""Data sets through the `datasets` library: saved ones, and the hub's, of which a stand-in serves here."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict

from lorica.data.sources.hub import is_hub_id


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.ERROR)


def rows(text: str, count: int = 600) -> Dataset:
    return Dataset.from_list([{"text": f"{text} {n}", "n": n} for n in range(count)])


def test_a_saved_set_and_its_splits(read: Any, tmp_path: Path) -> None:
    rows("a").save_to_disk(tmp_path / "one")
    found = read(tmp_path / "one")
    assert [row.values["n"] for row in found] == list(range(600))
    assert (found[0].source, found[599].source) == (f"{tmp_path}/one:1", f"{tmp_path}/one:600")
    DatasetDict(train=rows("t", 3), test=rows("e", 2)).save_to_disk(tmp_path / "two")
    assert [len(read(tmp_path / "two")), len(read(tmp_path / "two", split="test"))] == [3, 2]
    with pytest.raises(ValueError, match="has no split 'dev'; name one of train, test"):
        read(tmp_path / "two", split="dev")
    with pytest.raises(ValueError, match="is one split alone"):
        read(tmp_path / "one", split="train")
    with pytest.raises(ValueError, match=r"data.revision \(x\) is for data sets of the hub"):
        read(tmp_path / "one", revision="x")


def test_the_only_split_need_not_be_named_and_several_must(read: Any, tmp_path: Path) -> None:
    DatasetDict(odd=rows("o", 2)).save_to_disk(tmp_path / "odd")
    assert len(read(tmp_path / "odd")) == 2
    DatasetDict(a=rows("a", 2), b=rows("b", 2)).save_to_disk(tmp_path / "ab")
    with pytest.raises(ValueError, match=r"name one of a, b with data.split"):
        read(tmp_path / "ab")


def test_a_damaged_saved_set(read: Any, tmp_path: Path) -> None:
    rows("a").save_to_disk(tmp_path / "one")
    arrow = next((tmp_path / "one").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:40])
    with pytest.raises(ValueError, match="one is not a whole saved data set"):
        read(tmp_path / "one")
    arrow.unlink()
    with pytest.raises(ValueError, match="one is not a whole saved data set"):
        read(tmp_path / "one")


def test_the_hub_is_asked_with_what_was_given(read: Any, tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[Any] = []

    def load(path: str, name: str | None, revision: str | None) -> DatasetDict:
        asked.append((path, name, revision))
        return DatasetDict(train=rows("h", 2), dev=rows("d", 3))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    found = read("owner/name", name="c", split="dev", revision="v1")
    assert [row.source for row in found] == ["owner/name:1", "owner/name:2", "owner/name:3"]
    assert [row.values["text"] for row in read("owner/name")] == ["h 0", "h 1"]
    assert asked == [("owner/name", "c", "v1"), ("owner/name", None, None)]
    with pytest.raises(ValueError, match="owner/name has no split 'nosuch'; name one of train, dev"):
        read("owner/name", split="nosuch")
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text("x")
    with pytest.raises(ValueError, match="its name ends in none of"):  # what is here is never asked of the network
        read("owner/name")
    assert len(asked) == 3


def test_without_a_network_the_hub_is_one_clear_error(read: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)\nmore\nlines")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^owner/name is no file or folder here, and could not be had from the hub "):
        read("owner/name")


@pytest.mark.parametrize(
    ("path", "may"),
    [("owner/name", True), ("openai/gsm8k.v2", True), ("owner/rows.jsonl", False), ("a/b/c", False), ("name", False),
     ("./owner/name", False), ("/owner/name", False), ("owner/na*e", False), ("~/name", False),
     ("owner/x.csv.gz", False)],
)  # fmt: skip
def test_what_may_be_an_id(path: str, may: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(path) is may
    (tmp_path / "owner").mkdir()
    assert not is_hub_id("owner/name")  # a folder of that name is here, so a file in it was meant
