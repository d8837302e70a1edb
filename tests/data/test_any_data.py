"""Whatever a file or a row holds is rows, or one ValueError that names it: never another exception."""

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lorica.config.data_section import SourceConfig
from lorica.data.faults import Faults
from lorica.data.findings import Findings
from lorica.data.formats import Records
from lorica.data.formats.detect import FORMATS
from lorica.data.sources import Row, read_rows
from lorica.data.supervision import Supervision

SEEDS = [
    b'{"text": "a"}\n', b'[{"text": "\\ud800"}, ', b'a,b\n"1",2\n', b"PAR1", b"ARROW1\x00\x00", b"FEA1",
    b"\xff\xff\xff\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\n\r", b'"', "é😀".encode(), b"1e999", b"NaN",
]  # fmt: skip
BYTES = st.lists(st.one_of(st.sampled_from(SEEDS), st.binary(max_size=12)), max_size=8).map(b"".join)
PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "arrow", "feather", "txt", "md"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=BYTES, compression=st.sampled_from([*PACK]), cut=st.integers(0, 3), skip=st.booleans())
def test_any_bytes(tmp_path: Path, kind: str, content: bytes, compression: str, cut: int, skip: bool) -> None:
    packed = PACK[compression](content)
    path = tmp_path / f"rows.{kind}{compression}"
    path.write_bytes(packed[: len(packed) - cut])
    findings = Findings()
    faults = Faults(str(path), skip, findings)
    try:
        rows = list(read_rows(SourceConfig(path=str(path)), faults, findings))
        faults.finish(len(rows))
    except ValueError as error:
        assert str(tmp_path) in str(error) and len(str(error)) > 30


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "train", "weight", "tool_calls", "reasoning_content"]),
        st.sampled_from(["user", "assistant", "human", "gpt", "function_call", "tool"]) | SCALARS
        | st.lists(st.dictionaries(st.sampled_from(["type", "text", "name", "function"]), SCALARS | st.just("text"))),
        max_size=4,
    ),
    max_size=4,
)  # fmt: skip
VALUES = SCALARS | MESSAGES | st.lists(st.integers(-200, 2**32), max_size=4) | st.just('[{"role": "user"}]')
FIELDS = [*sorted({field for format in FORMATS.values() for field in format.fields}), "id", "promt", ""]


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5), min_size=1, max_size=3),
    format=st.sampled_from(["auto", *FORMATS]),
    train_on=st.sampled_from(["assistant", "all", "last"]),
    reasoning=st.sampled_from(["train", "keep", "drop"]),
)
@example([{"prompt": 1, "chosen": 2, "rejected": 3}], "preference", "last", "train")
def test_any_rows(rows: list[dict[str, Any]], format: str, train_on: str, reasoning: str) -> None:
    findings = Findings()
    given = [Row(f"rows:{number}", values) for number, values in enumerate(rows)]
    supervision = Supervision(train_on, {}, reasoning)
    try:
        records = list(Records(given, format, supervision, findings, Faults("rows", False, findings)))
    except ValueError as error:
        assert "rows" in str(error)
    else:
        assert [record.source for record in records] == [row.source for row in given]
