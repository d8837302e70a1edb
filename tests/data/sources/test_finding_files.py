"""Which files a path means, how they are unpacked, and what is said where there are none."""

import bz2
import gzip
import lzma
import os
import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LINE = b'{"text": "a"}\n'


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_files(read: Any, put: Any, suffix: str) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(5000))
    packed = PACKERS[suffix](lines)
    assert len(read(put(f"rows.jsonl{suffix}", packed))) == 5000
    assert len(read(put(f"rows.jsonl{suffix.upper()}", packed + PACKERS[suffix](LINE)))) == 5001  # in two parts
    for damaged in (b"plain", packed[:-12], packed[: len(packed) // 2]):
        with pytest.raises(ValueError, match=rf"rows.jsonl\{suffix} is not a whole (gzip|bzip2|xz|zstd) file"):
            read(put(f"rows.jsonl{suffix}", damaged))


def test_compressed_tables(read: Any, put: Any) -> None:
    assert read.values(put("rows.csv.gz", gzip.compress(b"text\na\n"))) == [{"text": "a"}]
    assert read.values(put("rows.txt.bz2", bz2.compress(b"a\n"))) == [{"text": "a"}]
    with pytest.raises(ValueError, match="parquet files compress their columns themselves"):
        read(put("rows.parquet.gz", gzip.compress(b"PAR1")))


def test_what_unpacks_to_far_too_much_is_a_fault(read: Any, put: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lorica.data.sources.lines.MAX_ROW_BYTES", 1 << 16)
    monkeypatch.setattr("lorica.data.sources.lines.MAX_SKIPPED_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="this line goes on for over"):
        read(put("rows.jsonl.gz", gzip.compress(b"{" + b"x" * (1 << 24))))


def test_a_folder_in_the_order_of_its_paths(read: Any, put: Any, tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a.jsonl", "b/10.jsonl", "b-c/1.jsonl.gz"):
        line = b'{"text": "%s"}\n' % name.encode()
        put(f"set/{name}", gzip.compress(line) if name.endswith("gz") else line)
    for name in (".hidden.jsonl", ".git/x.jsonl", "b/empty.jsonl", "README.md", "LICENSE", "b/notes.txt"):
        put(f"set/{name}", b"" if "empty" in name else LINE)
    texts = [values["text"] for values in read.values(tmp_path / "set")]
    assert texts == ["a.jsonl", "b/10.jsonl", "b/2.jsonl", "b-c/1.jsonl.gz"]
    unread = [Path(name).name for name in read.found()["file is not read"].rows]
    assert unread == ["LICENSE", "README.md", "notes.txt"]
    assert [Path(name).name for name in read.found()["file without rows"].rows] == ["empty.jsonl"]


def test_a_folder_of_text_leaves_out_what_is_about_it(read: Any, put: Any, tmp_path: Path) -> None:
    put("set/a.txt", "one\ntwo\n")
    put("set/b.md", "# three\n\nfour\n")
    put("set/LICENSE.txt", "all rights")
    assert [values["text"] for values in read.values(tmp_path / "set")] == ["one", "two", "# three\n\nfour"]


def test_folders_that_need_a_choice(read: Any, put: Any, tmp_path: Path) -> None:
    put("mixed/a.jsonl", LINE)
    put("mixed/b.csv", "text\na\n")
    with pytest.raises(ValueError, match=r"several kinds \(1 .csv, 1 .jsonl\).*mixed/\*.csv'"):
        read(tmp_path / "mixed")
    for names in (
        ("train.jsonl", "test.jsonl"),
        ("tasks_train_1.jsonl", "tasks_dev_1.jsonl"),
        ("train/0.jsonl", "val/0.jsonl"),
    ):
        folder = f"splits{names[0][:3]}{len(names[0])}"
        for name in names:
            put(f"{folder}/{name}", LINE)
        with pytest.raises(ValueError, match=rf"several splits \(.*train.*\).*for example .*{names[0]}"):
            read(tmp_path / folder)
    put("shards/train-00000-of-00002.jsonl", LINE)
    put("shards/train-00001-of-00002.jsonl", LINE)
    assert len(read(tmp_path / "shards")) == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds no files of rows. It is empty"):
        read(tmp_path / "none")
    put("other/a.zip", b"")
    with pytest.raises(ValueError, match=r"holds no files of rows. It holds .*a.zip"):
        read(tmp_path / "other")


def test_patterns(read: Any, put: Any, tmp_path: Path) -> None:
    for name in ("x/b.jsonl", "x/y/a.jsonl", "x/c.csv", "x/[1].jsonl"):
        put(name, LINE)
    assert [Path(row.source).name for row in read(tmp_path / "x" / "**" / "*.jsonl")] == [
        "[1].jsonl:1", "b.jsonl:1", "a.jsonl:1",
    ]  # fmt: skip
    assert len(read(tmp_path / "x" / "[1].jsonl")) == 1  # a file's own name comes first
    with pytest.raises(ValueError, match=rf"No file matches the pattern .*{tmp_path}/x holds \[1\].jsonl, b.jsonl"):
        read(tmp_path / "x" / "q*.jsonl")


def test_what_is_not_there(read: Any, put: Any, tmp_path: Path, monkeypatch: Any) -> None:
    path = put("data/train.jsonl", LINE)
    with pytest.raises(ValueError, match=rf"does not exist. Did you mean {path}\?"):
        read(tmp_path / "data" / "trian.jsonl")
    with pytest.raises(ValueError, match=rf"Did you mean {tmp_path}/data\?"):
        read(tmp_path / "dta" / "train.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"Check `data.path`. Relative paths start at {tmp_path}"):
        read("gone.jsonl")
    with pytest.raises(ValueError, match=r"does not exist. Did you mean data/train.jsonl\?"):
        read("data/train")  # never asked of the hub: the folder is here
    with pytest.raises(ValueError, match="its name ends in none of"):
        read(put("rows.xlsx", LINE))


def test_what_is_no_file(read: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match="is a named pipe; rows are read more than once"):
        read(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match="is a device"):
        read("/dev/zero")
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "gone")
    (tmp_path / "rows.jsonl").write_bytes(LINE)
    assert len(read(tmp_path)) == 1
    assert [Path(row).name for row in read.found()["file is not read"].rows] == ["lost.jsonl", "pipe.jsonl"]
    with pytest.raises(ValueError, match=r"lost.jsonl does not exist"):
        read(tmp_path / "lost.jsonl")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        with pytest.raises(ValueError, match="is a socket"):
            read(tmp_path / "s")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(read: Any, put: Any) -> None:
    path = put("rows.jsonl", LINE)
    path.chmod(0)
    with pytest.raises(ValueError, match=r"rows.jsonl cannot be read: Permission denied"):
        read(path)


def test_a_failing_disk_is_told(read: Any, put: Any, monkeypatch: Any) -> None:
    path = put("rows.jsonl", LINE)

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"rows.jsonl cannot be read: Permission denied. Check"):
        read(path)


def test_options_that_a_source_would_ignore(read: Any, put: Any) -> None:
    path = put("rows.jsonl", LINE)
    for option in ("name", "split", "revision"):
        with pytest.raises(ValueError, match=rf"data.{option} \(x\) is for data sets of the hub"):
            read(path, **{option: "x"})
    with pytest.raises(ValueError, match=r"data.sample_by \(line\) is for text files only"):
        read(path, sample_by="line")


def test_text_by_line_paragraph_and_document(read: Any, put: Any, monkeypatch: Any) -> None:
    path = put("a.txt", "\ufeffone\r\ntwo\n\n \nthree\n  four\n\n")
    for sample_by, expected in {
        None: [("1", "one"), ("2", "two"), ("5", "three"), ("6", "  four")],
        "paragraph": [("1", "one\ntwo"), ("5", "three\n  four")],
        "document": [("1", "one\ntwo\n\n \nthree\n  four\n")],
    }.items():
        rows = read(path, sample_by=sample_by)
        assert [(row.source.rpartition(":")[2], row.values["text"]) for row in rows] == expected
    broken = put("b.txt", b"a\n\ncaf\xe9\nb\n\nc\n")
    assert [values["text"] for values in read.values(broken, sample_by="paragraph", skip=True)] == ["a", "c"]
    monkeypatch.setattr("lorica.data.sources.text.MAX_ROW_BYTES", 10)
    with pytest.raises(ValueError, match=r"a.txt:5: this paragraph is longer"):
        read(path, sample_by="paragraph")


def test_addresses(read: Any, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    for name, content in {"b.jsonl": LINE, "a.jsonl.gz": gzip.compress(LINE * 2), "README.md": b"x"}.items():
        system.pipe(f"/bucket/{name}", content)
    parquet = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["p"]}), parquet)
    system.pipe("/tables/t.parquet", bytes(parquet.getvalue()))
    assert [row.source for row in read("memory://bucket")] == [
        "memory:///bucket/a.jsonl.gz:1", "memory:///bucket/a.jsonl.gz:2", "memory:///bucket/b.jsonl:1",
    ]  # fmt: skip
    assert len(read("memory://bucket/*.gz")) == 2
    assert read.values("memory://tables/t.parquet") == [{"text": "p"}]
    with pytest.raises(ValueError, match=r"memory:.*gone.jsonl cannot be read: .*Check the address, the network"):
        read("memory://bucket/gone.jsonl")
    with pytest.raises(ValueError, match="cannot be read: Protocol not known: nope"):
        read("nope://bucket/a.jsonl")


def test_the_web(read: Any, put: Any, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra [remote]")
    put("rows.jsonl.gz", gzip.compress(LINE * 3))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        rows = read(f"{address}/rows.jsonl.gz?key=secret")
        assert [row.source for row in rows] == [f"{address}/rows.jsonl.gz:{number}" for number in (1, 2, 3)]
        with pytest.raises(ValueError, match=r"gone.jsonl cannot be read: .*Check the address"):
            read(f"{address}/gone.jsonl")
        with pytest.raises(ValueError, match="its name ends in none of"):
            read(f"{address}/")
        server.shutdown()
    with pytest.raises(ValueError, match=r"rows.jsonl cannot be read: .*Check the address"):
        read(f"{address}/rows.jsonl")


def test_what_a_system_needs_is_named(read: Any, monkeypatch: Any) -> None:
    def lacking(path: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacking)
    with pytest.raises(ValueError, match=r"s3://b/a.jsonl cannot be read: Install s3fs.*\(pip install s3fs\)"):
        read("s3://b/a.jsonl")
