"""Rows of JSON: what is right is read, and each fault gives one error with its place."""

import io
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.data.sources import json_list
from lorica.data.sources.json_list import read_list
from lorica.data.sources.json_values import JsonDecoder


def test_lines_with_blank_ones_and_a_byte_order_mark(read: Any, put: Any) -> None:
    path = put("rows.jsonl", '\ufeff{"text": "é"}\r\n\n  \n{"text": "😀"}')
    assert [(row.source, row.values) for row in read(path)] == [
        (f"{path}:1", {"text": "é"}),
        (f"{path}:4", {"text": "😀"}),
    ]


def test_a_list_whatever_the_file_is_called(read: Any, put: Any) -> None:
    for name in ("rows.json", "rows.jsonl"):
        path = put(name, '\ufeff\n[{"text": "a"},\n {"text": "b"}]\n')
        assert [(row.source, row.values["text"]) for row in read(path)] == [(f"{path}[0]", "a"), (f"{path}[1]", "b")]


def test_a_whole_surrogate_pair_is_a_character(read: Any, put: Any) -> None:
    assert read.values(put("rows.jsonl", rb'{"text": "\ud83d\ude00"}')) == [{"text": "😀"}]


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (b"", "", "holds no rows"),
        (b"\n \n", "", "holds no rows"),
        (b"[]", "", "holds no rows"),
        (b"[ \n ]\n", "", "holds no rows"),
        (b'{"a": 1}\n{"a": 1,}\n', ":2:9", "broken JSON.*double quotes"),
        (b'{"a": 1}\n{"a": "open\n', ":2:7", "broken JSON.*Unterminated"),
        (b'{"a": 1} {"b": 2}\n', ":1:10", "broken JSON.*Extra data"),
        (b'{"a": 1}\n"text"\n', ":2", 'expected a JSON object.*str: "text"'),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', ":2:11", "not UTF-8.*0xe9"),
        (b'{"a": "x\x00"}\n', ":1:9", "broken JSON: Invalid control character"),
        (rb'{"a": "x \ud800 y"}', ":1", "surrogate"),
        (b'{"a": NaN}', ":1", "NaN is not a number"),
        (b'{"a": {"b": 1, "b": 2}}', ":1", "the key 'b' stands twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", ":1", "cannot read this JSON.*digits"),
        (b'{"a": ' + b"[" * 200_000 + b"}", ":1", "nested too deeply"),
        (b'{\n"rows": [{"a": 1}]\n}\n', "", "one JSON object over several lines.*jq -c"),
        (b'[{"a": 1},\n{"a" 2}]', ":2:6", "broken JSON"),
        (b'[{"a": 1},\n {"a": 2},]', ":2:11", "broken JSON: Expecting value"),
        (b'[{"a": 1}\n{"a": 2}]', ":2:1", "expected ',' or ']', found '{"),
        (b'[{"a": 1},\n{"a": "x', ":2:7", "Unterminated string"),
        (b'[{"a": 1}', ":1:10", "expected ',' or ']', the file ends"),
        (b'[{"a": 1}]\n[2]', ":2:1", "the list has ended"),
        (b'[{"a": 1}, 7]', r"\[1\]", "expected a JSON object.*int"),
        (rb'[{"a": "x \udc00 y"}]', r"\[0\]", "surrogate"),
        (b'[{"a": 1, "a": 2}]', r"\[0\]", "the key 'a' stands twice"),
        (b'[{"a": "caf\xe9"}]', "", "not UTF-8 near its byte 12"),
        ('[{"a": 1}]'.encode("utf-16"), "", "is UTF-16 text"),
        ('{"a": 1}'.encode("utf-16-le"), "", "is UTF-16LE text"),
        ('{"a": 1}'.encode("utf-16-be"), "", "is UTF-16BE text"),
        ('{"a": 1}'.encode("utf-32"), "", "is UTF-32 text"),
        (b"\x00" * 100, ":1:1", "broken JSON"),
    ],
)
def test_faults_name_their_place(read: Any, put: Any, content: bytes, place: str, says: str) -> None:
    path = put("rows.jsonl", content)
    with pytest.raises(ValueError, match=f"(?s)rows.jsonl{place}: .*{says}" if place else f"(?s){says}"):
        read(path)


def test_a_broken_line_is_left_out_and_counted(read: Any, put: Any) -> None:
    good = [json.dumps({"text": str(n)}) for n in range(2000)]
    path = put("rows.jsonl", "\n".join([*good[:1000], '{"text": ', '{"text": "caf\\ud800"}', *good[1000:]]))
    assert read.values(path, skip=True) == [{"text": str(n)} for n in range(2000)]
    assert read.found()["row cannot be read"].rows == [f"{path}:1001", f"{path}:1002"]
    with pytest.raises(ValueError, match=r"(?s)2 rows of .*:1001:10: broken JSON.*:1002: the text.*on_error: skip"):
        read(path)


def test_a_huge_line_does_not_hang(read: Any, put: Any) -> None:
    value = {"text": "é" * 5_000_000}
    started = time.monotonic()
    for content in (json.dumps(value), json.dumps([value])):
        assert read.values(put("rows.json", content)) == [value]
    assert time.monotonic() - started < 10


def test_a_line_over_the_limit_is_a_fault_and_its_rest_no_row(read: Any, put: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lorica.data.sources.lines.MAX_ROW_BYTES", 1000)
    path = put("rows.jsonl", '{"text": "a"}\n{"text": "' + "x" * 5000 + '"}\n{"text": "b"}\n')
    assert [row.source for row in read(path, skip=True)] == [f"{path}:1", f"{path}:3"]
    monkeypatch.setattr("lorica.data.sources.lines.MAX_SKIPPED_BYTES", 3000)
    with pytest.raises(ValueError, match=r":2: this line goes on for over"):
        read(path, skip=True)


def test_a_value_over_the_limit_ends_a_list(read: Any, put: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(json_list, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(json_list, "READ", 64)
    with pytest.raises(ValueError, match=r"rows.json:1:16: this value of the list is longer than"):
        read(put("rows.json", '[{"text": "a"},{"text": "' + "x" * 5000 + '"}]'))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=8), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_list_read_in_pieces_is_the_list(values: list[Any], piece: int, indent: int | None, ascii: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "READ", piece)
        read = list(read_list("rows.json", io.BytesIO(text.encode("utf-8", "surrogatepass")), JsonDecoder()))
    assert [value for value, _ in read] == values
    assert [json.loads(written) for _, written in read] == values


def test_places_in_a_list_are_right_wherever_it_was_cut(monkeypatch: Any) -> None:
    text = '[\n  {"a": "x"},\n  {"a": "y"}, {"b" 1}' + " " * 40 + "]"
    for piece in range(1, 60):
        monkeypatch.setattr(json_list, "READ", piece)
        with pytest.raises(ValueError, match=r"^rows.json:3:20: broken JSON: Expecting ':' delimiter"):
            list(read_list("rows.json", io.BytesIO(text.encode()), JsonDecoder()))
