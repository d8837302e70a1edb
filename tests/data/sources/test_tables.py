"""Rows of CSV, Parquet and Arrow files."""

import csv
import hashlib
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.data.faults import Faults
from lorica.data.findings import Findings
from lorica.data.sources.arrow import read_parquet
from lorica.data.sources.tables import read_table


def test_csv_is_text_as_it_stands(read: Any, put: Any) -> None:
    path = put("rows.csv", '\ufeffprompt, completion\r\n007,NA\r\n\r\n"a, ""b""\nc",None\r\nx,\r\n')
    assert [(row.source, row.values) for row in read(path)] == [
        (f"{path}:2", {"prompt": "007", "completion": "NA"}),
        (f"{path}:4", {"prompt": 'a, "b"\nc', "completion": "None"}),
        (f"{path}:6", {"prompt": "x", "completion": ""}),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.tsv", "p,q\tr\n1,2\t3\n"), ("a.csv", "p,q;r\n"), ("a.csv", "p;r\n1,2;3\n"), ("a.csv", "p\tr\n1,2\t3\n")],
)
def test_delimiters(read: Any, put: Any, name: str, content: str) -> None:
    path = put(name, content)
    if content == "p,q;r\n":  # the comma wins
        with pytest.raises(ValueError, match="holds no rows"):
            read(path)
    else:
        [values] = read.values(path)
        assert list(values.values()) == ["1,2", "3"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b\n1,2\n3\n", r":3: 1 values where the header has 2 columns \(a, b\)"),
        (b"a,b\n1,2,3\n", r":2: 3 values where"),
        (b'a,b\n1,"open\nx,y\n', r":2: broken CSV: unexpected end of data. A quote"),
        (b'a,b\n1,"x"y\n', r":2: broken CSV: ',' expected after"),
        (b"a,b\n1,caf\xe9\n", r":2:6: not UTF-8"),
        (b"a,a\n1,2\n", r":1: the header has the column 'a' twice"),
        (b"caf\xe9,b\n1,2\n", r":1:4: not UTF-8"),
        (b"", "holds no rows"),
        (b"a,b\n", "holds no rows"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16 text"),
    ],
)
def test_faults_of_csv_name_their_line(read: Any, put: Any, content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(put("rows.csv", content))


def test_the_index_that_pandas_writes_is_a_column(read: Any, put: Any) -> None:
    [values] = read.values(put("rows.csv", ",prompt,completion\n0,p,c\n"))
    assert values == {"column 1": "0", "prompt": "p", "completion": "c"}


def test_csv_goes_on_after_a_fault_and_long_fields_are_read(read: Any, put: Any) -> None:
    limit = csv.field_size_limit()
    long = "x" * (limit + 1)
    path = put("rows.csv", f'a,b\n1\n2,"x"y\n3,{long}\n')
    [row] = read(path, skip=True)
    assert (row.source, row.values) == (f"{path}:4", {"a": "3", "b": long})
    assert read.found()["row cannot be read"].rows == [f"{path}:2", f"{path}:3"]
    assert csv.field_size_limit() == limit


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")), min_size=2, max_size=2)
    )
)
@settings(max_examples=60, deadline=None)
def test_what_the_csv_module_writes_is_read(rows: list[list[str]]) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    content = io.BytesIO(file.getvalue().encode())
    found = [list(row.values.values()) for row in read_table("x.csv", content, Faults("x", False, Findings()))]
    assert found == rows


def table(rows: int = 150) -> pa.Table:
    return pa.table(
        {
            "messages": [
                [{"role": "user", "content": f"é {n}"}, {"role": "assistant", "content": None}] for n in range(rows)
            ],
            "weight": pa.array([None if n % 2 else n / 2 for n in range(rows)], pa.float64()),
            "when": pa.array([datetime(2024, 1, 1)] * rows),
        }
    )


@pytest.mark.parametrize("kind", ["parquet", "feather", "file.arrow", "stream.arrow"])
def test_tables_are_rows_with_numbers(read: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table(), path, row_group_size=70)
    elif kind == "feather":
        feather.write_feather(table(), path)
    else:
        new = pa.ipc.new_file if kind.startswith("file") else pa.ipc.new_stream
        with new(path, table().schema) as writer:
            writer.write_table(table(), max_chunksize=100)
    rows = read(path)
    assert [row.values for row in rows] == table().to_pylist()
    assert (rows[0].source, rows[149].source) == (f"{path}:1", f"{path}:150")


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows.feather"])
def test_damaged_tables(read: Any, put: Any, tmp_path: Path, name: str) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    feather.write_feather(table(), tmp_path / "a.feather")
    whole = (tmp_path / ("a.parquet" if "parquet" in name else "a.feather")).read_bytes()
    for content in (b"", b"text", whole[:-20], whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match=f"{name}(:1)?.* (is not a whole|holds no rows|cannot be read)"):
            read(put(name, content))


def test_a_large_group_of_rows_is_read_by_pages(tmp_path: Path) -> None:
    texts = [hashlib.sha512(str(n).encode()).hexdigest() * 10 for n in range(6000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", compression="none", use_dictionary=False)
    size = (tmp_path / "rows.parquet").stat().st_size
    with io.FileIO(tmp_path / "rows.parquet") as raw:
        read: list[int] = []

        class Counted(io.BufferedReader):
            def read(self, size: int | None = -1) -> bytes:
                content = super().read(size)
                read.append(len(content))
                return content

        first = next(read_parquet("x", Counted(raw), Faults("x", False, Findings())))
        assert first.values == {"text": texts[0]}
        assert size > 7_000_000 and sum(read) < size / 3


def test_wild_offsets_in_a_table_are_faults(read: Any, tmp_path: Path) -> None:
    offsets = pa.array([0, 4, 2_000_000_000, 12], pa.int32()).buffers()[1]
    wild = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"goodmoregood")])
    feather.write_feather(pa.table({"text": wild}), tmp_path / "rows.feather", compression="uncompressed")
    assert [row.values["text"] for row in read(tmp_path / "rows.feather", skip=True)] == ["good"]
    assert read.found()["row cannot be read"].count == 2


def test_a_value_that_cannot_be_read_is_one_row(read: Any, tmp_path: Path) -> None:
    raw = pa.array([b"good", b"caf\xe9", b"more"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "rows.parquet")
    rows = read(tmp_path / "rows.parquet", skip=True)
    assert [(row.source[-2:], row.values["text"]) for row in rows] == [(":1", "good"), (":3", "more")]
    assert "Invalid UTF8" in read.found()["row cannot be read"].message


def test_columns_of_one_name(read: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="the column 'text' twice"):
        read(tmp_path / "rows.parquet")
