"""Reading files: what is right is read, and each fault gives one error with its place."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from lorica.data.rows import read_rows


def write(folder: Path, content: bytes, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def test_lines_with_blank_ones_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff{"text": "é"}\r\n\n  \n{"text": "😀"}'.encode())
    assert [(row.source, row.values) for row in read_rows(path)] == [
        (f"{path}:1", {"text": "é"}),
        (f"{path}:4", {"text": "😀"}),
    ]


def test_json_list_gzip_and_several_files(tmp_path: Path) -> None:
    listed = write(tmp_path, b'\n[{"text": "a"},\n {"text": "b"}]', "rows.json")
    packed = write(tmp_path, gzip.compress(b'{"text": "c"}\n'), "rows.jsonl.gz")
    rows = list(read_rows([listed, packed]))
    assert [row.values["text"] for row in rows] == ["a", "b", "c"]
    assert [row.source for row in rows] == [f"{listed}[0]", f"{listed}[1]", f"{packed}:1"]


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    path = write(tmp_path, rb'{"text": "\ud83d\ude00"}')
    assert next(read_rows(path)).values == {"text": "😀"}


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (b"", "", "holds no rows"),
        (b"\n \n", "", "holds no rows"),
        (b"[]", "", "holds no rows"),
        (b'{"a": 1}\n{"a": 1,}\n', ":2:9", "broken JSON.*double quotes"),
        (b'{"a": 1}\n{"a": "open\n', ":2:7", "broken JSON.*Unterminated"),
        (b'{"a": 1} {"b": 2}\n', ":1:10", "broken JSON.*Extra data"),
        (b'[{"a": 1},\n{"a" 2}]', ":2:6", "broken JSON"),
        (b'{"a": 1}\n"text"\n', ":2", "expected a JSON object.*str"),
        (b'[{"a": 1}, 7]', r"\[1\]", "expected a JSON object.*int"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', ":2:11", "not UTF-8.*0xe9"),
        (rb'{"a": "x \ud800 y"}', ":1", "surrogate"),
        (b'{"a": NaN}', ":1", "NaN is not a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", ":1", "cannot read this JSON.*digits"),
        (b'{"a": ' + b"[" * 200_000 + b"}", ":1", "nested too deeply"),
    ],
)
def test_faults_name_their_place(tmp_path: Path, content: bytes, place: str, says: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"(?s)rows.jsonl{place}: .*{says}" if place else says):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", b"a,b", r"supported are JSON Lines"),
        ("rows.jsonl.gz", b"not gzip", "not a whole gzip file"),
        ("rows.json.gz", gzip.compress(b'{"a": 1}' * 99)[:-12], "not a whole gzip file"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(read_rows(write(tmp_path, content, name)))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.jsonl does not exist. Check `data.path`"):
        list(read_rows(str(tmp_path / "gone.jsonl")))
    with pytest.raises(ValueError, match="is a folder"):
        list(read_rows(str(tmp_path)))


def test_a_huge_line_does_not_hang(tmp_path: Path) -> None:
    value: dict[str, Any] = {"text": "é" * 5_000_000}
    started = time.monotonic()
    assert next(read_rows(write(tmp_path, json.dumps(value).encode()))).values == value
    assert time.monotonic() - started < 10
